"""A port that speaks TLS in front of a server that was built without.

front = TlsFront(redis_port, certificate.context())
Redis(port=front.port, ssl=True, ssl_ca_certs=certificate.bundle)
"""

import asyncio
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress

from devstack.ports import LOOPBACK, free_port

CHUNK_BYTES = 65536


class TlsFront:
    """Passes on, in the clear, what clients say over TLS."""

    def __init__(
        self, server_port: int, context: ssl.SSLContext, says: Mapping[int, int] | None = None
    ) -> None:
        """`says` has, by port, the port that clients are told in its place; both have the same length."""
        self._server_port = server_port
        self._says = {str(port).encode(): str(told).encode() for port, told in (says or {}).items()}
        self.port = free_port()
        self._loop = asyncio.new_event_loop()
        serving = asyncio.start_server(self._serve, LOOPBACK, self.port, ssl=context)
        self._server = self._loop.run_until_complete(serving)
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def stop(self) -> None:
        """Close the port and all connections."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        connections = asyncio.all_tasks() - {asyncio.current_task()}
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, questions = await asyncio.open_connection(LOOPBACK, self._server_port)
        except OSError:
            writer.close()
            return
        with suppress(asyncio.CancelledError):
            await asyncio.gather(self._pass_on(reader, questions), self._pass_on(answers, writer, self._says))

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        says: Mapping[bytes, bytes] | None = None,
    ) -> None:
        with suppress(OSError):
            while chunk := await reader.read(CHUNK_BYTES):
                for port, told in (says or {}).items():
                    chunk = chunk.replace(port, told)
                writer.write(chunk)
                await writer.drain()
        writer.close()

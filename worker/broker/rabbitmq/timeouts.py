"""Bounds each wait for RabbitMQ: a half-open connection (packets are dropped, nothing is closed) never fails
by itself, and a RabbitMQ that is short of memory sends heartbeats and answers nothing.

py-amqp waits without limit for an answer, and reads in a loop without end where a frame has come in part.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from amqp.transport import SSLTransport as TLSSocket
from amqp.transport import TCPTransport as TCPSocket
from kombu.transport import pyamqp

ANSWER_TIMEOUT_SECONDS = 10.0
"""Until RabbitMQ must have answered, or taken what is written. It answers in milliseconds."""
CLOSE_TIMEOUT_SECONDS = 2.0
"""The same where a channel or a connection is closed, which nothing depends on."""
SHORTEST_READ_SECONDS = 0.001
"""The shortest time that a read waits: 0 stands for a read that does not wait at all."""


class _WholeFrames:
    """Gives up a read whose frame came in part, as one of which nothing came. Bytes that came are kept."""

    def _read(self, n: int, initial: bool = False, **errors: Any) -> bytes:
        read: bytes = super()._read(n, initial=True, **errors)  # type: ignore[misc]
        return read


class BoundedTCPSocket(_WholeFrames, TCPSocket):  # type: ignore[misc]
    """A TCP connection that reads so."""


class BoundedTLSSocket(_WholeFrames, TLSSocket):  # type: ignore[misc]
    """The same over TLS."""


class BoundedChannel(pyamqp.Channel):  # type: ignore[misc]
    """A channel whose close does not delay its process."""

    def close(self, *args: Any, **options: Any) -> Any:
        is_open = self.connection is not None
        with self.connection.answering_within(CLOSE_TIMEOUT_SECONDS) if is_open else nullcontext():
            return super().close(*args, **options)


class BoundedConnection(pyamqp.Connection):  # type: ignore[misc]
    """A connection that waits for no answer without limit."""

    # kombu makes the connections: a test gives one another clock.
    monotonic: Callable[[], float] = staticmethod(time.monotonic)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"write_timeout": ANSWER_TIMEOUT_SECONDS} | options)
        self._answer_timeout = ANSWER_TIMEOUT_SECONDS

    @contextmanager
    def answering_within(self, seconds: float) -> Iterator[None]:
        """Wait less for answers."""
        before, self._answer_timeout = self._answer_timeout, seconds
        try:
            yield
        finally:
            self._answer_timeout = before

    def close(self, *args: Any, **options: Any) -> Any:
        with self.answering_within(CLOSE_TIMEOUT_SECONDS):
            return super().close(*args, **options)

    def Transport(  # noqa: N802
        self,
        host: str,
        connect_timeout: float,
        ssl: Any = False,
        read_timeout: float | None = None,
        write_timeout: float | None = None,
        **options: Any,
    ) -> Any:
        """Make the socket. py-amqp calls this by its class's name."""
        socket = BoundedTLSSocket if ssl else BoundedTCPSocket
        return socket(
            host,
            connect_timeout=connect_timeout,
            ssl=ssl,
            read_timeout=read_timeout,
            write_timeout=write_timeout,
            **options,
        )

    def drain_events(self, timeout: float | None = None) -> None:
        """Handle the next frame that is no heartbeat. Raises `TimeoutError`.

        py-amqp gives no timeout where it waits for an answer. If none comes, the connection is closed: a late
        answer must not be read as that of another call.
        """
        if timeout is not None:
            super().drain_events(timeout)
            return
        deadline = self.monotonic() + self._answer_timeout
        try:
            while not self.blocking_read(max(deadline - self.monotonic(), SHORTEST_READ_SECONDS)):
                pass
        except TimeoutError:
            self.collect()
            raise

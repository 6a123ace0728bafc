"""Exchanges over an open connection: a request is written and a plain response is read without http.client.

http.client and urllib3 handle a head header by header, some thousand calls of Python an exchange. Whatever is
not plain is still theirs: to connect, proxies, and any other request or response.
"""

import io
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from functools import partial
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from typing import TYPE_CHECKING, Any, NamedTuple

from urllib3 import HTTPConnectionPool, HTTPHeaderDict, Timeout
from urllib3.exceptions import ProtocolError, ReadTimeoutError, SSLError

from worker.firehose.deadline import DeadlineReader, Pool, TlsPool
from worker.upstream import set_connection_pools

if TYPE_CHECKING:
    from botocore.client import BaseClient

    File = io.BufferedReader[DeadlineReader]

HEAD = re.compile(rb"HTTP/1\.1 (?P<status>[2-5]\d\d) [^\r\n]*\r\n(?P<fields>(?:[\w-]+:[^\r\n]*\r\n)+)\r\n")
"""The head of a plain response."""
NO_CONTENT = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}
"""Responses without content, whatever their headers say."""
WRITTEN = {"Content-Length", "User-Agent"}
"""Fields that a plain request has: urllib3 would add them."""
READ_BYTES = 64 * 1024
"""At a time, of a response that is not plain."""


class Response(NamedTuple):
    """A response, as botocore reads it off urllib3's."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    is_last: bool
    """Whether the connection is of no further use."""

    def stream(self) -> Iterator[bytes]:
        """The content, in parts."""
        yield self.content


class _PlainExchanges(HTTPConnectionPool):
    """Makes plain exchanges by itself, and returns and raises what it would otherwise."""

    def urlopen(self, method: str, url: str, body: Any = None, headers: Any = None, **options: Any) -> Any:  # type: ignore[override]
        connection: Any = self._get_conn()
        head = _head(connection, method, url, body, headers)
        if head is None or "timeout" in options:
            self._put_conn(connection)
            return super().urlopen(method, url, body, headers, **options)
        try:
            response = self._exchange(connection.sock, head, body)
        except BaseException:
            connection.close()
            self._put_conn(None)
            raise
        if response.is_last:
            connection.close()
        self._put_conn(connection)
        return response

    def _exchange(self, sock: socket.socket, head: bytes, body: bytes) -> Response:
        try:
            self._send(sock, head, body)
            sock.settimeout(self.timeout.read_timeout)
            return read_response(sock)
        except TimeoutError as error:
            raise ReadTimeoutError(self, "", "Read timed out.") from error
        except ssl.SSLError as error:
            raise SSLError(error) from error
        except (OSError, HTTPException) as error:
            raise ProtocolError("Connection aborted.", error) from error

    def _send(self, sock: socket.socket, head: bytes, body: bytes) -> None:
        sock.settimeout(Timeout.resolve_default_timeout(self.timeout.connect_timeout))
        try:
            sock.sendall(head)
            sock.sendall(body)
        except (BrokenPipeError, ConnectionResetError):
            # The server may have answered before it had read everything.
            pass
        except TimeoutError as error:
            raise ProtocolError("Connection aborted.", error) from error


class _Pool(_PlainExchanges, Pool):
    pass


class _TlsPool(_PlainExchanges, TlsPool):
    pass


def make_exchanges_plain(client: "BaseClient") -> None:
    """Have the client's connections make plain exchanges. Call it before the client's first call."""
    set_connection_pools(client, {"http": _Pool, "https": _TlsPool})


def _head(connection: Any, method: str, url: str, body: Any, headers: Mapping[str, Any]) -> bytes | None:
    """The head of a request as http.client would write it; None where it is http.client's to write."""
    is_direct = connection.proxy is None and url.startswith("/") and ":" not in connection.host
    if not is_direct or connection.sock is None or not isinstance(body, bytes):
        return None
    port = "" if connection.port == connection.default_port else f":{connection.port}"
    fields = {"Host": f"{connection.host}{port}", "Accept-Encoding": "identity", **headers}
    if not fields.keys() >= WRITTEN or set(map(type, fields.values())) != {str}:
        return None
    lines = [f"{method} {url} HTTP/1.1", *map(": ".join, fields.items())]
    head = "\r\n".join([*lines, "", ""])
    # http.client refuses a value that would be another header, and knows how to encode any other.
    return head.encode() if head.isascii() and len(head.splitlines()) == len(lines) + 1 else None


def read_response(sock: socket.socket) -> Response:
    """Read a response within the socket's timeout. Raises `OSError` and `HTTPException`."""
    with io.BufferedReader(DeadlineReader(sock)) as file:
        return _read_plain(file) or _read_any(file)


def _read_plain(file: "File") -> Response | None:
    """Read a plain response; None, and nothing is read, where it is none."""
    head = HEAD.match(file.peek())
    if head is None:
        return None
    status = int(head["status"])
    fields = [line.decode("latin-1").partition(":") for line in head["fields"].splitlines()]
    headers = {name.lower(): value.lstrip(" \t") for name, _, value in fields}
    length = headers.get("content-length", "")
    is_plain = length.isdigit() and "transfer-encoding" not in headers and len(headers) == len(fields)
    if not is_plain or status in NO_CONTENT:
        return None
    file.read(head.end())
    content = file.read(int(length))
    is_last = len(content) < int(length) or "close" in headers.get("connection", "").lower()
    return Response(status, headers, content, is_last)


class _Opened(NamedTuple):
    """A socket that http.client is to read, of which something is in a buffer already."""

    file: "File"

    def makefile(self, _mode: str) -> "File":
        return self.file


def _read_any(file: "File") -> Response:
    """Read a response as http.client does."""
    # CPython 3.14 reports a response that is left open when its file is closed.
    with HTTPResponse(_Opened(file), method="POST") as response:  # type: ignore[arg-type]
        response.begin()
        content = b"".join(iter(partial(response.read, READ_BYTES), b""))
        # A value that goes on in a further line is one value.
        headers = HTTPHeaderDict(
            (name, value.replace("\r\n", "")) for name, value in response.headers.items()
        )
        return Response(response.status, headers, content, is_last=response.will_close)

"""Limits how long an answer may take as a whole.

botocore's read timeout is one of urllib3's, and counts anew with each read of the socket: a server
that sends a few bytes every ten seconds occupies a process for ever.
"""

import io
import socket
import time
from collections.abc import Callable
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any

from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)

from worker.upstream import set_connection_pools

if TYPE_CHECKING:
    from botocore.client import BaseClient


class DeadlineReader(io.RawIOBase):
    """Reads a socket until a moment. Raises `TimeoutError`, as the socket itself does."""

    def __init__(self, sock: socket.socket, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._socket = sock
        self._raw: Any = sock.makefile("rb", buffering=0)
        timeout = sock.gettimeout()
        self._ends_at = None if timeout is None else monotonic() + timeout

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._ends_at is not None:
            left = self._ends_at - self._monotonic()
            if left <= 0:
                raise TimeoutError("the answer takes longer than its limit")
            self._socket.settimeout(left)
        read: int | None = self._raw.readinto(buffer)
        return read

    def close(self) -> None:
        self._raw.close()
        super().close()


class _DeadlineResponse(HTTPResponse):
    """A response whose head and body arrive within the socket's timeout, counted once."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        # What http.client opens holds a reference to the socket, too.
        self.fp.close()
        self.fp = io.BufferedReader(DeadlineReader(sock))


class _Connection(AWSHTTPConnection):
    response_class = _DeadlineResponse  # type: ignore[assignment]


class _TlsConnection(AWSHTTPSConnection):
    response_class = _DeadlineResponse  # type: ignore[assignment]


class Pool(AWSHTTPConnectionPool):
    """The connections of an `http` URL."""

    ConnectionCls = _Connection


class TlsPool(AWSHTTPSConnectionPool):
    """The connections of an `https` URL."""

    ConnectionCls = _TlsConnection


def limit_answer_time(client: "BaseClient") -> None:
    """Have the client's read timeout count for a whole answer. Call it before the client's first call."""
    set_connection_pools(client, {"http": Pool, "https": TlsPool})

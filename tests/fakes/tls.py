"""A certificate authority for loopback, and servers that speak TLS, or break off before they do."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from socket import socket
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LOOPBACK = "127.0.0.1"
CLIENT_HELLO_BYTES = 4096


class Certificate:
    """A self-signed certificate for loopback, in files: a client trusts it by `bundle`."""

    def __init__(self, directory: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, LOOPBACK)])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ip_address(LOOPBACK))]), critical=False
            )
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.bundle = directory / "ca.pem"
        self.bundle.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self.key = directory / "key.pem"
        self.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

    def context(self) -> ssl.SSLContext:
        """The options with which a server presents the certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.bundle, self.key)
        return context


Break = Callable[[socket], None]
"""Breaks a connection off after the client's first bytes."""


def close(_: socket) -> None:
    """Say nothing."""


def send_alert(connection: socket) -> None:
    """Send the TLS alert `handshake_failure`."""
    connection.sendall(b"\x15\x03\x03\x00\x02\x02\x28")


def answer_plainly(connection: socket) -> None:
    """Answer HTTP, as a proxy does that knows no TLS."""
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


class TlsServer(ThreadingHTTPServer):
    """Serves a handler over TLS, and breaks handshakes off while `broken_by` is set."""

    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler], context: ssl.SSLContext) -> None:
        super().__init__((LOOPBACK, 0), handler)
        self._context = context
        self.broken_by: Break | None = None
        self.broken = 0
        """Handshakes that were broken off."""

    @property
    def url(self) -> str:
        return f"https://{LOOPBACK}:{self.server_port}"

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.broken_by is None:
            with self._context.wrap_socket(request, server_side=True) as tls:
                super().finish_request(tls, client_address)
            return
        request.recv(CLIENT_HELLO_BYTES)
        # Counted first: the client may see the end before this thread goes on.
        self.broken += 1
        self.broken_by(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: a client that does not trust the certificate leaves."""


@contextmanager
def serving(server: TlsServer) -> Iterator[TlsServer]:
    """Serve in a thread of the test."""
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()

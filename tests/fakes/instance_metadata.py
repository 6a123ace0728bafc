"""The metadata service of an EC2 instance: it gives out credentials, and may be slow or broken at first."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ROLE = "worker-role"
CREDENTIALS = {
    "Code": "Success",
    "Type": "AWS-HMAC",
    "AccessKeyId": "ASIASECRETIVE0001",
    "SecretAccessKey": "secretive-instance-key",
    "Token": "secretive-instance-token",
    "Expiration": "2099-01-01T00:00:00Z",
}


class InstanceMetadata(ThreadingHTTPServer):
    """Fails the first `failures` requests: in turn with a status 500 and by closing the connection.

    The first `held` requests get no answer until a later one has come, which its client sends when it has
    given up waiting.
    """

    daemon_threads = True

    def __init__(self, failures: int = 0, held: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.failures, self.held = failures, held
        self.requests = 0
        self.arrived = threading.Condition()

    @property
    def environment(self) -> dict[str, str]:
        """Of a worker whose credentials are the instance's."""
        return {
            "AWS_EC2_METADATA_DISABLED": "false",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{self.server_port}/",
        }

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: a client that has given up waiting has left."""


class Handler(BaseHTTPRequestHandler):
    """Answers as the service does: a token, the role's name, its credentials."""

    server: InstanceMetadata

    def do_PUT(self) -> None:
        self._answer(b"secretive-metadata-token")

    def do_GET(self) -> None:
        is_role = self.path.endswith(ROLE)
        self._answer(json.dumps(CREDENTIALS).encode() if is_role else ROLE.encode())

    def _answer(self, body: bytes) -> None:
        with self.server.arrived:
            self.server.requests += 1
            number = self.server.requests
            self.server.arrived.notify_all()
            if number <= self.server.held:
                self.server.arrived.wait_for(lambda: self.server.requests > number)
        if number <= self.server.failures and number % 2:
            return
        self.send_response(500 if number <= self.server.failures else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def instance_metadata(**faults: int) -> Iterator[InstanceMetadata]:
    """Serve in a thread of the test."""
    server = InstanceMetadata(**faults)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()

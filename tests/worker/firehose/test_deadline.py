"""The read timeout counts for a whole answer, however it arrives."""

import socket
import threading
from contextlib import suppress

import pytest
from botocore.exceptions import ReadTimeoutError

from schemas.settings import Configuration
from worker.firehose.clients import Clients
from worker.firehose.deadline import DeadlineReader
from worker.firehose.errors import Kind, classify

READ_TIMEOUT_SECONDS = 1
DRIP_SECONDS = 0.2
"""Far below the timeout of one read."""
DRIPS = 200
"""Far more than there is time for."""
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: 1000\r\n\r\n"


class DrippingServer:
    """Sends its answer a byte at a time until the client has left, after a beginning that is sent at once."""

    def __init__(self, beginning):
        self.beginning = beginning
        self.sent = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.left = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        connection, _ = self._listener.accept()
        with connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(self.beginning)
            for _ in range(DRIPS):
                connection.sendall(HEAD[self.sent : self.sent + 1] if not self.beginning else b" ")
                self.sent += 1
                if self.left.wait(DRIP_SECONDS):
                    return

    def close(self):
        self.left.set()
        self._listener.close()


@pytest.fixture
def client(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASECRETIVE0001")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secretive")

    def make(url):
        monkeypatch.setenv("AWS_ENDPOINT_URL_FIREHOSE", url)
        return Clients(cipher=None, read_timeout=READ_TIMEOUT_SECONDS).get(Configuration("main"), "us-east-1")

    return make


@pytest.mark.parametrize("beginning", [b"", HEAD], ids=["head", "body"])
def test_an_answer_that_drips_ends_at_the_timeout_and_is_transient(client, beginning):
    server = DrippingServer(beginning)
    firehose = client(server.url)
    with pytest.raises(ReadTimeoutError) as caught:
        firehose.put_record(DeliveryStreamName="travel", Record={"Data": b"a"})
    server.close()
    # By the timeout of each read it would go on for as long as the server drips.
    assert 1 < server.sent < DRIPS
    assert classify(caught.value).kind is Kind.TRANSIENT


def test_a_read_has_what_is_left_of_the_time_and_none_begins_after_it(clock):
    ours, peer = socket.socketpair()
    with ours, peer:
        ours.settimeout(READ_TIMEOUT_SECONDS)
        reader = DeadlineReader(ours, monotonic=clock)
        peer.sendall(b"ab")
        clock.advance(READ_TIMEOUT_SECONDS / 4)
        assert reader.read(1) == b"a"
        assert ours.gettimeout() == READ_TIMEOUT_SECONDS * 3 / 4
        clock.advance(READ_TIMEOUT_SECONDS)
        with pytest.raises(TimeoutError):
            reader.read(1)
        reader.close()

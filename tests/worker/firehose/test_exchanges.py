"""An exchange over an open connection sends, returns and raises what urllib3's own does."""

import socket
import threading
from collections import deque
from contextlib import suppress

import pytest
from botocore.awsrequest import AWSPreparedRequest, HeadersDict
from botocore.exceptions import BotoCoreError
from hypothesis import given
from hypothesis import strategies as st

from schemas.settings import Configuration
from worker.firehose.clients import CONFIG, Clients
from worker.firehose.credentials import make_session
from worker.firehose.deadline import limit_answer_time
from worker.firehose.exchanges import make_exchanges_plain
from worker.upstream import send_request

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nplain"
LONG = b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000


class Server:
    """Answers each request with the next of its answers, given as parts, and with `PLAIN` after the last."""

    def __init__(self):
        self.answers = deque()
        self.requests = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.close()

    def _accept(self):
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection, suppress(OSError), connection.makefile("rb") as file:
            while head := self._read_request(file):
                self.requests.append(head)
                parts, closes = self.answers.popleft() if self.answers else ([PLAIN], False)
                for part in parts:
                    connection.sendall(part)
                if closes:
                    return

    @staticmethod
    def _read_request(file):
        """The lines of a request's head, and its body."""
        lines = []
        while (line := file.readline()) not in (b"\r\n", b""):
            lines.append(line)
        if not lines:
            return None
        length = next(int(line.split()[1]) for line in lines if line.lower().startswith(b"content-length"))
        return lines[0], sorted(lines[1:]), file.read(length)


class Sender:
    """A client that has a connection open."""

    def __init__(self, prepare):
        self.server = Server()
        self.url = f"http://127.0.0.1:{self.server.port}/"
        session, _ = make_session(Configuration("main"), "us-east-1", CONFIG, cipher=None)
        self.client = session.create_client("firehose", region_name="us-east-1", endpoint_url=self.url)
        prepare(self.client)
        self.send()

    def send(self, body=b"body", headers=None):
        """What botocore makes of the response; or the name of its error."""
        headers = {"Content-Length": str(len(body)), "User-Agent": "test"} | (headers or {})
        headers = HeadersDict({name: value for name, value in headers.items() if value is not None})
        request = AWSPreparedRequest("POST", self.url, headers, body, stream_output=False, context={})
        try:
            response = send_request(self.client, request)
        except BotoCoreError as error:
            return type(error).__name__
        fields = sorted((name.lower(), value) for name, value in response.headers.items())
        return response.status_code, fields, response.content

    def send_with(self, answer, closes):
        """What becomes of a request with this answer and of the next, and how many connections it took."""
        self.server.answers.append((answer, closes))
        before = self.server.connections
        return self.send(), self.send(), self.server.connections - before


@pytest.fixture(scope="module")
def both():
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", "AKIASECRETIVE0001")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "secretive")
        senders = Sender(make_exchanges_plain), Sender(limit_answer_time)
    yield senders
    for sender in senders:
        sender.server.close()


ANSWERS = {
    "plain": [PLAIN],
    "long": [LONG],
    "in parts": [PLAIN[:20], PLAIN[20:60], PLAIN[60:]],
    "error": [b"HTTP/1.1 503 Slow Down\r\nContent-Length: 4\r\n\r\nslow"],
    "empty": [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"],
    "no content": [b"HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n"],
    "a length without content": [b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"],
    "chunked": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nplain\r\n0\r\n\r\n"],
    "closing": [b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 1\r\n\r\n1"],
    "continuing": [b"HTTP/1.1 100 Continue\r\n\r\n", PLAIN],
    "a field twice": [b"HTTP/1.1 200 OK\r\nX: 1\r\nX: 2\r\nContent-Length: 1\r\n\r\n1"],
    "a folded field": [b"HTTP/1.1 200 OK\r\nX: 1\r\n 2\r\nContent-Length: 1\r\n\r\n1"],
    "spaces": [b"HTTP/1.1 200 OK\r\nX:   1 \r\ncontent-length:1\r\n\r\n1"],
    "not ASCII": [b"HTTP/1.1 200 OK\r\nX: \xe4\xc3\xa4\r\nContent-Length: 1\r\n\r\n1"],
    "no reason": [b"HTTP/1.1 200 \r\nContent-Length: 1\r\n\r\n1"],
}
"""Answers after which the connection goes on, unless they say that it does not."""
LAST_ANSWERS = {
    "HTTP/1.0": [b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n1"],
    "without a length": [b"HTTP/1.1 200 OK\r\nX: 1\r\n\r\nuntil the end"],
    "a wrong length": [b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nuntil the end"],
    "cut in the content": [PLAIN[:-2]],
    "cut in the head": [PLAIN[:30]],
    "cut in a chunk": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\npla"],
    "nothing": [],
    "no HTTP": [b"SSH-2.0-OpenSSH\r\n"],
    "empty line": [b"\r\n"],
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_an_answer_is_read_as_urllib3_reads_it(both, answer):
    ours, theirs = both
    assert ours.send_with(answer, closes=False) == theirs.send_with(answer, closes=False)


@pytest.mark.parametrize("answer", LAST_ANSWERS.values(), ids=LAST_ANSWERS.keys())
def test_a_last_answer_is_read_as_urllib3_reads_it(both, answer):
    ours, theirs = both
    assert ours.send_with(answer, closes=True) == theirs.send_with(answer, closes=True)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"body", {}),
        (b"", {}),
        (b"x" * 300_000, {}),
        (b"body", {"User-Agent": None}),
        (b"body", {"X": "ä"}),
        (b"body", {"X": b"bytes"}),
    ],
    ids=["plain", "empty", "large", "no agent", "not ASCII", "bytes"],
)
def test_a_request_is_written_as_urllib3_writes_it(both, body, headers):
    ours, theirs = both
    assert ours.send(body, headers) == theirs.send(body, headers)
    assert len(ours.server.requests[-1][2]) == len(body)
    written, expected = ([_without_port(s, line) for line in _lines(s)] for s in both)
    assert written == expected


def _lines(sender):
    line, fields, body = sender.server.requests[-1]
    return [line, *fields, body]


def _without_port(sender, line):
    return line.replace(str(sender.server.port).encode(), b"")


@given(st.text(st.characters(codec="utf-8"), max_size=5), st.booleans())
def test_a_field_that_would_be_two_is_refused_as_http_client_refuses_it(both, text, breaks):
    ours, theirs = both
    headers = {"X-Amz-Security-Token": f"{text}\r\nX: 1" if breaks else text}
    assert ours.send(b"body", headers) == theirs.send(b"body", headers)


def test_the_clients_of_the_worker_make_plain_exchanges(monkeypatch, both):
    ours, _ = both
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASECRETIVE0001")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secretive")
    client = Clients(cipher=None, read_timeout=1).get(Configuration("main"), "us-east-1")
    made, plain = (each._endpoint.http_session._pool_classes_by_scheme for each in (client, ours.client))
    assert made == plain

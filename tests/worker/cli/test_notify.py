"""`notify --test` over a real webhook on loopback."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from worker.cli import notify as module
from worker.config import read_settings


@pytest.fixture
def webhook():
    """A web server that keeps what is posted to it."""
    posted = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.posted = posted
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def with_urls(monkeypatch):
    def with_urls(*urls):
        settings = read_settings({"AUDIENCE_ALERT_URLS": ",".join(urls), "AUDIENCE_ENVIRONMENT": "staging"})
        monkeypatch.setattr(module, "current_settings", lambda: settings)

    return with_urls


def test_a_test_message_reaches_every_url(operator, webhook, with_urls):
    with_urls(f"json://127.0.0.1:{webhook.server_port}/a", f"json://127.0.0.1:{webhook.server_port}/b")

    assert operator.lists("notify", "--test") == [{"sent": 2}]
    assert [message["title"] for message in webhook.posted] == ["staging: audience-firehose: test"] * 2


def test_a_url_that_is_not_reached_is_named_by_its_position(operator, webhook, with_urls):
    with_urls(f"json://127.0.0.1:{webhook.server_port}/a", "json://user:hunter2@127.0.0.1:1/b")

    message = operator.fails("notify", "--test")

    assert "position 2" in message
    assert "hunter2" not in message


def test_without_urls_it_says_what_to_set(operator, with_urls):
    with_urls()

    assert "AUDIENCE_ALERT_URLS" in operator.fails("notify", "--test")

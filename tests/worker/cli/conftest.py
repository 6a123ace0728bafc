"""The command over a Redis and a broker in memory, and a Firehose on loopback."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from click.testing import CliRunner, Result
from cryptography.fernet import Fernet
from fakeredis import FakeRedis
from kombu.transport import memory
from little_worker import forget_all_messages

from devstack.firehose import FakeFirehose
from worker.broker import client as broker
from worker.broker.installation import BrokerIdentity
from worker.celery import app
from worker.cli import main
from worker.config import read_settings
from worker.firehose.clients import Clients
from worker.services import Services
from worker.state.installation import Installation

NOW = 1_800_000_000.0
"""2027-01-15T08:00:00Z."""
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@dataclass
class Clock:
    """A clock that is set by hand."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now


@dataclass
class Operator:
    """Somebody at a shell."""

    runner: CliRunner = field(default_factory=CliRunner)

    def tries(self, *arguments: object, stdin: str | bytes | None = None) -> Result:
        """Give a command, whatever comes of it."""
        return self.runner.invoke(main, list(map(str, arguments)), input=stdin)

    def runs(self, *arguments: object, stdin: str | bytes | None = None) -> Result:
        """Give a command that must succeed."""
        result = self.tries(*arguments, stdin=stdin)
        assert result.exit_code == 0, result.output
        return result

    def fails(self, *arguments: object, stdin: str | bytes | None = None) -> str:
        """Give a command that must fail, in so many words and without a traceback."""
        result = self.tries(*arguments, stdin=stdin)
        assert result.exit_code != 0, result.output
        assert isinstance(result.exception, SystemExit), result.exception
        assert "Traceback" not in result.output
        return result.stderr

    def lists(self, *arguments: object) -> list[dict]:
        """A listing as a program reads it."""
        return [json.loads(line) for line in self.runs(*arguments, "--json").stdout.splitlines()]

    def connects(self, audience_id: int = 7, name: str = "stream", *arguments: object) -> str:
        """A connection, with a configuration that has no credentials of its own."""
        self.runs("configure", "main")
        command = ("connect", audience_id, "--configuration", "main", "--delivery-stream-name", name)
        return self.runs(*command, *arguments).stdout.split()[1]


@dataclass
class Sending:
    """Run something while the second message is sent."""

    at_second: Callable[[], None] = lambda: None
    sent: int = 0

    def a_message(self) -> None:
        self.sent += 1
        if self.sent == 2:
            self.at_second()


@dataclass
class Broker:
    """The broker in memory."""

    def calls(self, queue: str) -> list[tuple[dict, list, dict]]:
        """Take the calls off a queue: headers, args and kwargs of each."""
        with broker.connect(app) as connection, connection.channel() as channel:
            found = []
            while message := channel.basic_get(queue, no_ack=True):
                args, kwargs, _ = message.payload
                found.append((message.headers, args, kwargs))
            return found

    def send(self, queue: str, messages: int) -> None:
        """Put some messages into a queue."""
        with broker.sender(app) as sender:
            for _ in range(messages):
                sender.send("audience.deliver.us-east-1", {}, queue=queue)

    def changes(self) -> list[list[dict]]:
        """Take the producer's messages: the changes of each."""
        return [kwargs["changes"] for _, _, kwargs in self.calls("audience.changes")]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def services(clock, monkeypatch):
    settings = read_settings({"AUDIENCE_SECRET_KEY": Fernet.generate_key().decode()})
    found = Services(FakeRedis(decode_responses=True), settings, clock)
    monkeypatch.setitem(app.__dict__, "services", found)
    installation = Installation(found.redis, BrokerIdentity(app), found.monotonic)
    monkeypatch.setitem(app.__dict__, "installation", installation)
    monkeypatch.setitem(app.__dict__, "clients", Clients(found.cipher, read_timeout=30))
    return found


@pytest.fixture
def queues(monkeypatch):
    # All tests of a process share the broker in memory, other files' tests too.
    forget_all_messages()
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", "memory://")
    # No worker is there, and nobody waits for one to answer.
    monkeypatch.setattr(broker, "PING_SECONDS", 0.01)
    yield Broker()
    memory.Channel.queues.clear()


@pytest.fixture
def sending(monkeypatch):
    found = Sending()

    class Watched(broker.Sender):
        def send(self, *arguments, **options):
            found.a_message()
            super().send(*arguments, **options)

    monkeypatch.setattr(broker, "Sender", Watched)
    return found


@pytest.fixture
def no_broker(monkeypatch):
    """Nothing listens there, and nobody waits for it to."""
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setattr(broker, "CONNECT_RETRIES", 0)


@pytest.fixture
def operator(services, queues):
    return Operator()


@pytest.fixture
def firehose(monkeypatch):
    with FakeFirehose() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_FIREHOSE", server.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENVIRONMENT00000")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        yield server

"""The tasks in the test's own process, on a broker, a Redis and a Firehose in memory."""

import json
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from celery.signals import task_failure
from identity import FakeBrokerIdentity
from kombu import Queue
from little_worker import LittleWorker, forget_all_messages

import tasks.deliver
import tasks.forward  # noqa: F401
from worker.celery import app as real_app
from worker.queues import CHANGES_QUEUE, Stream
from worker.services import Services
from worker.state.installation import Installation

STREAM = Stream("main", "us-east-1", "travel")


@dataclass
class Taking:
    """A Firehose client whose stream takes everything, or refuses it all for good or for now."""

    taken: list[bytes] = field(default_factory=list)

    def put_record_batch(self, DeliveryStreamName, Records):  # noqa: N803 boto3's own names
        self.taken += [record["Data"] for record in Records]
        return {"FailedPutCount": 0, "RequestResponses": [{"RecordId": "1"} for _ in Records]}

    def describe_delivery_stream(self, DeliveryStreamName):  # noqa: N803 boto3's own names
        """The description of a stream that takes records."""
        return {"DeliveryStreamDescription": {"DeliveryStreamStatus": "ACTIVE"}}

    def get(self, configuration, region):
        """The client of any configuration."""
        return self

    def forget(self, configuration_name, region):
        """Nothing is kept."""


@dataclass
class World:
    """All there is, empty again for each input: an audience 1 with a stream, and a worker."""

    services: Services
    worker: LittleWorker
    firehose: Taking
    ends: list[str] = field(default_factory=list)
    """The types of the errors that tasks ended with."""

    def begin(self) -> None:
        """Forget what the input before this one left."""
        self.services.redis.flushall()
        self.services.registry._snapshot = None
        forget_all_messages()
        self.firehose.taken.clear()
        self.ends.clear()
        self.services.registry.configure(name="main")
        self.services.registry.connect(audience_id=1, configuration="main", delivery_stream_name="travel")

    def receive(self, task: str, args: Any, kwargs: Any, queue: str = CHANGES_QUEUE) -> None:
        """A message as any sender could have written it, and all that comes of it."""
        with real_app.connection_for_write() as connection:
            connection.Producer().publish(
                json.dumps([args, kwargs, {}]).encode(),
                routing_key=queue,
                declare=[Queue(queue)],
                content_type="application/json",
                content_encoding="utf-8",
                headers={"id": str(uuid4()), "task": task},
            )
        self.worker.run(CHANGES_QUEUE)
        self.worker.run(STREAM.queue)

    def records(self) -> list[Any]:
        """The records that the stream has taken."""
        return [json.loads(line) for line in self.firehose.taken]

    def letter(self) -> Any:
        """The message of the only dead letter."""
        (letter,) = self.services.dead_letters.all()
        return self.services.dead_letters.message(letter)

    def check_counters(self, stream: Stream = STREAM) -> None:
        """Nothing is lost, nothing waits, nothing failed otherwise, and each letter has raised an alert."""
        letters, alerts = self.services.dead_letters.all(), self.services.alerts.all()
        assert set(self.ends) <= {"DeadLettered"}
        assert len(letters) == sum(alert.occurrences for alert in alerts)
        assert {alert.dead_letter_id for alert in alerts} <= {letter.id for letter in letters}
        counts = self.services.counters.of(stream)
        dead = sum(letter.records for letter in letters if letter.stream == stream)
        assert counts.delivered == len(self.firehose.taken)
        if counts.enqueued:
            assert counts.enqueued == counts.delivered + dead
        assert not self.worker.waiting(STREAM.queue)
        shown = json.dumps([repr(letters), repr(alerts)])
        assert "secretive" not in shown


@pytest.fixture
def world(services, monkeypatch):
    """The application over the test's services, broker and Firehose."""
    firehose = Taking()
    for name in ("broker_url", "broker_read_url", "broker_write_url"):
        monkeypatch.setitem(real_app.conf, name, "memory://")
    monkeypatch.setitem(real_app.__dict__, "services", services)
    installation = Installation(services.redis, FakeBrokerIdentity(), services.monotonic)
    monkeypatch.setitem(real_app.__dict__, "installation", installation)
    monkeypatch.setitem(real_app.__dict__, "clients", firehose)
    real_app.set_current()
    forget_producers()
    found = World(services, LittleWorker(real_app), firehose)

    def note_end(exception=None, **_):
        found.ends.append(type(exception).__name__)

    task_failure.connect(note_end)
    yield found
    task_failure.disconnect(note_end)
    forget_producers()


def forget_producers():
    """Connections that the application keeps lead to the broker it had when it made them."""
    real_app._pool = None
    real_app.amqp._producer_pool = None

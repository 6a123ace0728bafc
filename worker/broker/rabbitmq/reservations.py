"""Messages that are reserved on RabbitMQ, as a run's task reads and hands them over.

A channel's messages belong to the main process that has reserved them. It passes their frames on with the
run, and ends them when the run ends. The outbox makes what a run makes and the end of its
messages one step.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import amqp
import orjson
from celery.exceptions import Reject
from kombu import Producer
from kombu.exceptions import OperationalError
from pybase64 import b64decode, b64encode

from worker.broker.messages import encoded_content
from worker.broker.outbox import Outbox
from worker.broker.rabbitmq.publishing import Publisher
from worker.broker.rabbitmq.queues import is_often_delivered
from worker.broker.runs import RUN_MESSAGE_BYTES, HandOver, Obstacle, ReservedMessage, Result
from worker.broker.serialization import CONTENT_TYPE
from worker.privacy import without_content

FRAMES = "frames"
"""The property of a run's message that holds the frames of its messages. AMQP knows no such property, so
nobody else's message has it."""

logger = logging.getLogger(__name__)


class Frames(NamedTuple):
    """The content of a message, as its frames hold it."""

    header: bytes
    """The properties, in the content's header."""
    body: bytes

    def __repr__(self) -> str:
        return without_content(self)


class Parted(NamedTuple):
    """Why a run's task rejects its message, although it has succeeded: some messages do not end with it.

    Of what a task returns, Celery hands a text to the main process; of what it raises, all.
    """

    result: Any
    left: Sequence[str]
    """The delivery tags of messages for another run."""
    alone: Sequence[str]
    """The delivery tags of messages that are to be run alone."""


class CollectingProducer(Producer):  # type: ignore[misc]
    """Collects messages, each with its queue, instead of sending them. Needs no connection."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.collected: list[tuple[str, str]] = []

    def _publish(self, body: bytes | str, *details: Any) -> None:
        priority, content_type, content_encoding, headers, properties, queue, *_ = details
        text = body.encode() if isinstance(body, str) else body
        message = {
            "body": b64encode(text).decode(),
            "properties": {
                **properties,
                "priority": priority,
                "content_type": content_type,
                "content_encoding": content_encoding,
                "application_headers": headers,
            },
        }
        self.collected.append((queue, orjson.dumps(message).decode()))


class Connected:
    """The messages of a run, and a connection to publish what is made of them."""

    def __init__(
        self, producer: Producer, outbox: Outbox, publisher: Publisher, frames: Sequence[Frames]
    ) -> None:
        self._client = producer.connection
        self._outbox = outbox
        self._publisher = publisher
        self._frames = frames
        self._completed: Sequence[bytes] = ()
        self.producer = CollectingProducer(self._client)
        self.now = 0
        """Unix seconds of the state's clock, which all workers share, when messages were last read."""

    def read(self, tags: Sequence[str]) -> Iterator[ReservedMessage]:
        """The messages, in their order; each is read when its turn comes."""
        self.now = self._outbox.now()
        return (_reserved(tag, *frames) for tag, frames in zip(tags, self._frames, strict=False))

    @contextmanager
    def collecting(self) -> Iterator[list[tuple[str, str]]]:
        """Collect what `producer` sends, instead of sending it: each message with its queue."""
        self.producer.collected = []
        yield self.producer.collected

    def hand_over(self, run: HandOver) -> dict[str, Obstacle]:
        """Store a run in the outbox, and publish what it made; or name what cannot be completed.

        A run that is still in the outbox, and has completed some of the messages, is finished. If RabbitMQ
        does not take what that one made, its messages try again alone, and hold up none of the others.
        """
        obstacles, pending = self._outbox.store(run, self.now)
        for run_id, tags in pending.items():
            try:
                self.finish(run_id)
            except OperationalError as error:
                logger.warning("%s: %d messages of an earlier run wait", error, len(tags))
                obstacles |= dict.fromkeys(tags, Obstacle.RUN_ALONE)
        if not obstacles:
            self._completed = list(run.completed.values())
            self._publish(run.run_id, run.messages)
        return obstacles

    def count(self, run_id: str, record: Callable[[], None]) -> None:
        """Record the counters of a run. If that fails, its messages come back, and it is done then."""
        record()
        self._outbox.remove(run_id, self._completed)

    def end(self, result: Result, *, left: Sequence[str] = (), alone: Sequence[str] = ()) -> Result:
        """Return the result. Raises `Reject`, for the main process, if messages do not end with the run."""
        if left or alone:
            raise Reject(Parted(result, left, alone), requeue=True)
        return result

    def keep_from_runs(self, key: bytes) -> bool:
        """False if a run has completed the message. If that one is still in the outbox, it is finished.

        The outbox stores no run of a message with a lease.
        """
        if run_id := self._outbox.run_of(key):
            self.finish(run_id)
            return False
        return not self._outbox.is_completed(key)

    def unfinished(self) -> set[str]:
        """The IDs of the runs in the outbox."""
        return self._outbox.run_ids()

    def finish(self, run_id: str) -> None:
        """Publish and count a run whose process was lost, or is about to do the same."""
        entry = self._outbox.entry(run_id)
        if entry is not None:
            self._publish(run_id, entry.messages)
            self._outbox.record_counts(run_id, entry)
            self._outbox.remove_late(run_id, entry.completed)

    def _publish(self, run_id: str, messages: Sequence[tuple[str, str]]) -> None:
        """Publish what a run made. What RabbitMQ takes is published once, even if it refuses the rest."""
        left = {number: (queue, _message(text)) for number, (queue, text) in enumerate(messages)}
        try:
            self._publisher.publish(self._client, left)
        except OperationalError:
            if len(left) < len(messages):
                self._outbox.keep(run_id, [messages[number] for number in left])
            raise


def _message(text: str) -> amqp.Message:
    content = orjson.loads(text)
    return amqp.Message(b64decode(content["body"]), **content["properties"])


def _reserved(tag: str, header: bytes, body: bytes) -> ReservedMessage:
    message = amqp.Message()
    try:
        message.inbound_header(header)
        properties = message.properties
        headers = properties.get("application_headers") or {}
        if properties.get("content_type") != CONTENT_TYPE or is_often_delivered(headers):
            return ReservedMessage(tag, None)
        return ReservedMessage(tag, encoded_content(headers, body, RUN_MESSAGE_BYTES))
    except Exception:
        # Whatever is wrong, it is run alone, and becomes a dead letter there.
        return ReservedMessage(tag, None)

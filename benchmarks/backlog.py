"""A backlog of messages, as the forwarder itself makes them, only many at once.

The real producer task, or a caller's Celery, makes a message of each kind; the others are copies
of it under other IDs, which alone distinguish them. Copies are put under names that nobody
consumes, and renamed to their queues when a run begins.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from uuid import uuid4

from celery import Celery
from redis import Redis

from benchmarks.changes import change
from benchmarks.stack import Stack
from worker.queues import CHANGES_QUEUE, FORWARD, Stream

BACKLOG = "benchmark:backlog:"
AT_ONCE = 200
"""Messages sent to Redis in one go."""


class Template(NamedTuple):
    """A message as it lies in Redis, and what in it is its own."""

    text: str
    own: tuple[str, ...]

    def copy(self) -> str:
        """The same message under another ID."""
        text = self.text
        for name in self.own:
            text = text.replace(name, str(uuid4()))
        return text


def template(message: bytes) -> Template:
    """The template that a message makes."""
    text = message.decode()
    envelope = json.loads(text)
    own = {envelope["headers"]["id"], envelope["properties"]["delivery_tag"]}
    return Template(text, tuple(own))


def caller(stack: Stack) -> Celery:
    """Another app, one that compresses what it sends."""
    app = Celery("another-app", broker=stack.env["CELERY_BROKER_URL"])
    app.conf.task_compression = "zstd"
    return app


def send_changes(app: Celery, audience: int, changes: int, queue: str = CHANGES_QUEUE) -> None:
    """Send one message, of so many changes of an audience."""
    content = [change(number, audience) for number in range(changes)]
    app.send_task(FORWARD, kwargs={"changes": content}, queue=queue, ignore_result=True)


def change_templates(stack: Stack, audiences: Iterable[int], changes: int) -> list[Template]:
    """Per audience, a message of so many changes, as another app sends it."""
    app, queue = caller(stack), f"{BACKLOG}templates"
    for audience in audiences:
        send_changes(app, audience, changes, queue)
    return _taken(stack.broker, queue)


def delivery_templates(stack: Stack, audiences: Mapping[Stream, int], records: int) -> dict[Stream, Template]:
    """Per stream, a batch of so many records. The streams are registered, and nothing is queued."""
    app = caller(stack)
    for audience in audiences.values():
        send_changes(app, audience, records)
    with stack.workers(1, 2, "--queues", CHANGES_QUEUE):
        stack.wait_for(
            lambda: all(stack.broker.exists(stream.queue) for stream in audiences),
            "a batch in the queue of each stream",
        )
    return {stream: _taken(stack.broker, stream.queue)[0] for stream in audiences}


def enqueue_batches(broker: Redis, templates: Mapping[str, Sequence[Template]], messages: int) -> None:
    """Make so many messages for each of these queues, by turns of its templates. Nobody sees them yet."""
    with broker.pipeline(transaction=False) as pipe:
        for queue, kinds in templates.items():
            for number in range(messages):
                pipe.lpush(BACKLOG + queue, kinds[number % len(kinds)].copy())
                if len(pipe) >= AT_ONCE:
                    pipe.execute()
        pipe.execute()


def release(broker: Redis, queues: Iterable[str]) -> None:
    """Move the backlog of these queues into them."""
    with broker.pipeline() as pipe:
        for queue in queues:
            pipe.rename(BACKLOG + queue, queue)
        pipe.execute()


def _taken(broker: Redis, queue: str) -> list[Template]:
    with broker.pipeline() as pipe:
        messages, _ = pipe.lrange(queue, 0, -1).delete(queue).execute()
    return [template(message) for message in reversed(messages)]

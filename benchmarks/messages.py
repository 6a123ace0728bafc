"""Messages of other apps, many at once: as their Celery sends them, each with changes of its own.

The first message of a kind is sent by a real Celery. The others have its envelope, with IDs and arguments of
their own. All are put under a name that nobody consumes, and renamed to their queue when a run begins.
"""

import base64
import json
from collections.abc import Iterator, Sequence
from hashlib import shake_128
from itertools import count
from typing import Any, NamedTuple
from uuid import uuid4

from celery import Celery
from redis import Redis

from benchmarks.backlog import AT_ONCE, BACKLOG
from benchmarks.changes import AUDIENCE, change
from benchmarks.stack import Stack
from worker.queues import CHANGES_QUEUE, FORWARD

PUT_RECORD = "plain.put_record"
"""A task that takes one change, by another name than ours."""
TEMPLATE = f"{BACKLOG}template"
RESERVED = "unacked_index"
"""kombu's key of the messages that are reserved and not acknowledged."""


class Load(NamedTuple):
    """Changes that an app sends: how many a message, for which audiences by turns, to which task."""

    changes_per_message: int = 1
    audiences: Sequence[int] = (AUDIENCE,)
    task: str = FORWARD
    queue: str = CHANGES_QUEUE
    filler_bytes: int = 0
    """Bytes of one more identity of each user, for larger records."""

    def arguments(self, audience: int, first: int) -> dict[str, Any]:
        """The arguments of a message whose users are numbered from `first`."""
        numbers = range(first, first + self.changes_per_message)
        return self.with_changes([self._change(number, audience) for number in numbers])

    def with_changes(self, changes: list[dict[str, Any]]) -> dict[str, Any]:
        """The arguments of a message of these changes."""
        return {"change": changes[0]} if self.task == PUT_RECORD else {"changes": changes}

    def _change(self, number: int, audience: int) -> dict[str, Any]:
        content = change(number, audience)
        if self.filler_bytes:
            content["user_identities"]["Other2"] = filler(number, self.filler_bytes)
        return content


def filler(number: int, size: int) -> str:
    """A text of about so many characters that compresses like hex digits, another one for each number."""
    return shake_128(number.to_bytes(8)).hexdigest(size // 2)


def put_waiting(stack: Stack, load: Load, messages: int) -> None:
    """Have so many messages wait where nobody sees them. Needs no worker."""
    envelope = _envelope(stack, load)
    with stack.broker.pipeline(transaction=False) as pipe:
        for text in _messages(envelope, load, messages):
            pipe.lpush(BACKLOG + load.queue, text)
            if len(pipe) >= AT_ONCE:
                pipe.execute()
        pipe.execute()


def release(broker: Redis, load: Load) -> None:
    """Move what waits into its queue."""
    broker.rename(BACKLOG + load.queue, load.queue)


def is_settled(broker: Redis, load: Load) -> bool:
    """Whether nothing is in the load's queue, and nothing is reserved."""
    waiting, reserved = broker.pipeline().llen(load.queue).zcard(RESERVED).execute()
    return not waiting and not reserved


USERS = count(1)
"""Numbers of users. Each change is about another one."""


def _messages(envelope: dict[str, Any], load: Load, messages: int) -> Iterator[str]:
    embed = json.loads(base64.b64decode(envelope["body"]))[2]
    headers, properties = envelope["headers"], envelope["properties"]
    for number in range(messages):
        first = next(USERS) * load.changes_per_message
        arguments = load.arguments(load.audiences[number % len(load.audiences)], first)
        body = json.dumps([[], arguments, embed]).encode()
        envelope["body"] = base64.b64encode(body).decode()
        headers["id"] = headers["root_id"] = properties["correlation_id"] = str(uuid4())
        properties["delivery_tag"] = str(uuid4())
        yield json.dumps(envelope)


def _envelope(stack: Stack, load: Load) -> dict[str, Any]:
    app = Celery("another-app", broker=stack.env["CELERY_BROKER_URL"])
    arguments = load.arguments(load.audiences[0], 0)
    with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
        app.send_task(load.task, kwargs=arguments, queue=TEMPLATE, ignore_result=True, producer=producer)
    envelope: dict[str, Any] = json.loads(stack.broker.lpop(TEMPLATE))
    envelope["properties"]["delivery_info"] = {"exchange": "", "routing_key": load.queue}
    return envelope

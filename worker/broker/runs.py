"""A run: messages of `audience.changes` that a worker has reserved together, as a message of its own.

Celery's machinery around a message costs a hundred times what the message's own work costs, so it handles
a run as one message. That message is in no queue: the worker's channel makes it, and its call names the
delivery tags of the messages. The run's task reads the messages by their tags, hands over what it makes of
them, and says how they end. Each broker has its own way of doing that: `worker.broker.reservations`.
"""

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import IntEnum
from typing import Any, NamedTuple, Protocol, TypeVar
from uuid import uuid4

import orjson
from kombu import Producer

from worker.broker.messages import EncodedCall
from worker.broker.serialization import CONTENT_TYPE
from worker.privacy import without_content
from worker.queues import FORWARD_RUN

RUN_BYTES = 2 * 1024 * 1024
"""At most, as the messages lie in the broker, beyond the first. Bounds the memory of a pool process."""
RUN_CONTENT_BYTES = 4 * RUN_BYTES
"""At most, of the content of its messages, which may be compressed. The next run has what is beyond."""
RUN_MESSAGE_BYTES = 640 * 1024
"""A message with more content is in no run, so no record of a run can be too large for Firehose."""

Result = TypeVar("Result")


class Obstacle(IntEnum):
    """Why a message cannot be completed."""

    GONE = 1
    """It is not reserved any more: it was requeued."""
    COMPLETED = 2
    """It was completed before: it is a repeat."""
    RUN_ALONE = 3
    """It is to be run alone, is being so, or was: the task of single messages knows what is to be done."""


class ReservedMessage(NamedTuple):
    """A message of a run."""

    tag: str
    """Its delivery tag."""
    call: EncodedCall | None
    """None where it cannot be run in a run."""
    sequence: str | None = None
    """The sequence number that the broker has stamped it with, unless its sender's headers hold one."""


class HandOver(NamedTuple):
    """A run to hand over."""

    run_id: str
    completed: Mapping[str, bytes]
    """By delivery tag, the idempotency keys of the messages that the run completes."""
    repeated: Sequence[str]
    """The delivery tags of messages that were completed before."""
    messages: Sequence[tuple[str, str]]
    """The messages that it made: each with the list or queue that it is for."""
    counts: str
    """Its counts, which the counters of the streams are to receive."""

    def __repr__(self) -> str:
        return without_content(self, "run_id")


class Reservation(Protocol):
    """A run's messages over one connection. Raises `RedisError` and `OperationalError`."""

    producer: Producer
    now: int
    """Unix seconds of a clock that all workers share, when messages were last read."""

    def read(self, tags: Sequence[str]) -> Iterator[ReservedMessage]:
        """The messages that are still reserved, in their order; each is read when its turn comes."""

    def collecting(self) -> AbstractContextManager[list[tuple[str, str]]]:
        """Collect what `producer` sends, instead of sending it: each message with where it is for."""

    def hand_over(self, run: HandOver) -> dict[str, Obstacle]:
        """Hand a run over, atomically; or do nothing, and name the messages that cannot be completed."""

    def count(self, run_id: str, record: Callable[[], None]) -> None:
        """Have `record` record the counters of a run that is handed over."""

    def end(self, result: Result, *, left: Sequence[str] = (), alone: Sequence[str] = ()) -> Result:
        """End the run's task with a result. Some messages are left for another run, or run alone."""

    def keep_from_runs(self, key: bytes) -> bool:
        """Have no run complete the message with this idempotency key. False: a run has completed it.

        The caller has the lease of the message.
        """


def run_call(
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    task: str = FORWARD_RUN,
    headers: Mapping[str, Any] | None = None,
) -> tuple[str, dict[str, Any]]:
    """A new run's ID, and its message as kombu's channel delivers it, without its properties."""
    run_id = str(uuid4())
    described = {
        "lang": "py",
        "task": task,
        "id": run_id,
        "root_id": run_id,
        "retries": 0,
        "origin": f"{os.getpid()}@{socket.gethostname()}",
        **(headers or {}),
    }
    message = {
        "body": orjson.dumps([args, kwargs or {}, None]).decode(),
        "content-type": CONTENT_TYPE,
        "content-encoding": "utf-8",
        "headers": described,
    }
    return run_id, message

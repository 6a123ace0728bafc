"""Reserved messages, as a run's task reads and ends them: by their delivery tags.

The messages that a run makes and the end of the run's messages are one atomic step in the broker, so both are
there or neither, whatever is lost. The keys of completed messages are in the broker for the same reason.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from enum import IntEnum
from typing import Any, NamedTuple

from celery import Celery
from kombu import Producer

from worker.broker.redis.channel import Channel
from worker.broker.redis.index import ADD_TO_INDEX, INDEX_KEYS
from worker.broker.redis.message import decode, text_of_record
from worker.store.scripts import Script
from worker.store.windows import Windows

COMPLETED = "audience.completed"
"""By window of time: a set of the idempotency keys of the messages that were completed in it."""
UNCOUNTED = "audience.uncounted"
"""By ID of a run: what is to be counted of it in the state, JSON."""

HAND_OVER = Script(__package__, "hand_over", definitions=ADD_TO_INDEX)


class Obstacle(IntEnum):
    """Why a message cannot be completed."""

    GONE = 1
    """It is not reserved any more: it was requeued."""
    COMPLETED = 2
    """It was completed before: it is a repeat."""


class HandOver(NamedTuple):
    """A run to hand over."""

    run_id: str
    completed: Mapping[str, bytes]
    """By delivery tag, the idempotency keys of the messages that the run completes."""
    repeated: Sequence[str]
    """The delivery tags of messages that were completed before."""
    messages: Sequence[tuple[str, str]]
    """The messages that it made: each with the list that it is for."""
    counts: str
    """What is to be counted of it."""


class Reservations:
    """Reserved messages of one process. Raises `RedisError` and `OperationalError`."""

    def __init__(self, app: Celery, *, window_seconds: int) -> None:
        """`window_seconds` is a quarter of the time for which a completed message is remembered."""
        self._app = app
        self._completed = Windows(COMPLETED, window_seconds)

    @contextmanager
    def open(self) -> Iterator["Connected | None"]:
        """A connection of the pool, for the time of a run; None where the broker is not Redis."""
        with self._app.producer_or_acquire() as producer:
            is_redis = isinstance(producer.channel, Channel)
            yield Connected(producer, self._completed) if is_redis else None


class Connected:
    """Reserved messages over one connection."""

    def __init__(self, producer: Producer, completed: Windows) -> None:
        """`completed` are the sets of the idempotency keys of completed messages."""
        self.producer = producer
        self._channel: Channel = producer.channel
        self._completed = completed
        self.now = 0
        """Unix seconds of the server's clock, which all workers share, when messages were last read."""

    def read(self, tags: Sequence[str]) -> list[bytes | None]:
        """The messages, each as JSON text; None for one that is not reserved any more."""
        with self._channel.conn_or_acquire() as client:
            (self.now, _), records = client.pipeline().time().hmget(self._channel.unacked_key, tags).execute()
        return [record and text_of_record(record) for record in records]

    def requeue(self, tags: Sequence[str], *, alone: bool = False) -> None:
        """Requeue messages, next in line and in their order; `alone`: so that no run will hold one."""
        self._channel.qos.requeue(tags, alone=alone)

    def collecting(self) -> AbstractContextManager[list[tuple[str, str]]]:
        """Collect what `producer` sends, instead of sending it: each message with the list that it is for."""
        return self._channel.collecting()

    def hand_over(self, run: HandOver) -> dict[str, Obstacle]:
        """Hand a run over, atomically; or do nothing, and name the messages that cannot be completed."""
        lists = list(dict.fromkeys(name for name, _ in run.messages))
        positions = {name: position for position, name in enumerate(lists, start=1)}
        windows = self._completed.keys(self.now)
        pairs = [word for name, message in run.messages for word in (positions[name], message)]
        tags = list(run.completed)
        with self._channel.conn_or_acquire() as client:
            answer: list[Any] = HAND_OVER(
                client,
                keys=[
                    self._channel.unacked_index_key,
                    self._channel.unacked_key,
                    UNCOUNTED,
                    *INDEX_KEYS,
                    *windows,
                    *lists,
                ],
                args=[
                    run.run_id,
                    run.counts,
                    self._completed.keep_seconds,
                    len(windows),
                    len(run.completed),
                    len(run.repeated),
                    *tags,
                    *run.completed.values(),
                    *run.repeated,
                    *pairs,
                ],
            )
        found = iter(answer)
        return {tags[position]: Obstacle(reason) for position, reason in zip(found, found, strict=True)}

    def is_completed(self, key: bytes) -> bool:
        """Whether a run has completed the message with this idempotency key."""
        with self._channel.conn_or_acquire() as client:
            self.now, _ = client.time()
            pipe = client.pipeline()
            for window in self._completed.keys(self.now):
                pipe.sismember(window, key)
            return any(pipe.execute())

    def uncounted(self) -> dict[str, str]:
        """By ID, what is to be counted of the runs that were handed over and not counted yet."""
        with self._channel.conn_or_acquire() as client:
            found = client.hgetall(UNCOUNTED)
            return {decode(run_id): decode(counts) for run_id, counts in found.items()}

    def forget_counted(self, run_id: str) -> None:
        """Forget what was to be counted of a run."""
        with self._channel.conn_or_acquire() as client:
            client.hdel(UNCOUNTED, run_id)

"""How long the oldest message of each queue has waited.

Our own messages bear the time at which they were enqueued. Those of callers do not, so whoever reads the
queues notes when it first saw each queue's oldest message: the age is then a lower bound.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import orjson
from redis import Redis

from worker.store.entries import CORRUPT_ERRORS
from worker.store.joined import read_hash

HEADS = "audience:queue-heads"
"""By queue: its oldest message, and when it was first seen at that place (Unix seconds)."""


class Backlog(Protocol):
    """A queue as the broker shows it."""

    @property
    def messages(self) -> int: ...
    @property
    def head(self) -> str: ...
    @property
    def enqueued_at(self) -> float | None: ...


class Waiting(NamedTuple):
    """The oldest message of a queue."""

    age_seconds: float
    """Since it was enqueued, or since it was first seen."""
    unchanged_seconds: float
    """How long it has been the oldest: nobody has taken one for that long."""


class QueueHeads:
    """The notes, shared by all who read the queues."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def observe(self, backlogs: Mapping[str, Backlog], now: float) -> dict[str, Waiting]:
        """Return how long each queue's oldest message has waited, and record new ones.

        Queues that are empty, or whose broker does not tell, are left out. `now` in Unix seconds.
        """
        stored = {queue: _read(text) for queue, text in read_hash(self._redis, HEADS).items()}
        waiting: dict[str, Waiting] = {}
        fresh: dict[str, str] = {}
        for queue, backlog in backlogs.items():
            if not backlog.head:
                continue
            head, since = stored.get(queue, ("", now))
            if head != backlog.head:
                since = now
                fresh[queue] = orjson.dumps([backlog.head, now]).decode()
            born = since if backlog.enqueued_at is None else backlog.enqueued_at
            waiting[queue] = Waiting(max(now - born, 0.0), max(now - since, 0.0))
        self._write(fresh, [queue for queue in stored if queue in backlogs and not backlogs[queue].head])
        return waiting

    def _write(self, fresh: Mapping[str, str], gone: list[str]) -> None:
        if fresh or gone:
            pipe = self._redis.pipeline(transaction=False)
            if fresh:
                pipe.hset(HEADS, mapping=dict(fresh))
            if gone:
                pipe.hdel(HEADS, *gone)
            pipe.execute()


def _read(text: str) -> tuple[str, float]:
    try:
        head, since = orjson.loads(text)
        return str(head), float(since)
    except CORRUPT_ERRORS:
        return "", 0.0

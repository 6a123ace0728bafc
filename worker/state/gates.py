"""Which streams are closed, and why. Every worker sees the same gates."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from redis import Redis

from worker.queues import Stream, is_stream_queue
from worker.state.entries import entry

GATES = "audience:gates"
OPERATOR = "operator"
UNREADABLE = "unreadable"


class Gate(NamedTuple):
    """A closed stream. Its backlog waits in its queue until it is resumed."""

    reason: str
    """An alert's type, `operator`, or `unreadable` where somebody spoilt the entry."""
    since: str
    """UTC, ISO 8601."""


class Gates:
    """Closed streams, by their queue. A stream without an entry flows."""

    def __init__(self, redis: Redis, clock: Callable[[], float]) -> None:
        self._redis = redis
        self._clock = clock

    def close(self, stream: Stream, reason: str) -> None:
        """Stop consuming the stream's queue until it is opened."""
        since = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="seconds")
        self._redis.hset(GATES, stream.queue, json.dumps(Gate(reason, since)._asdict()))

    def open(self, stream: Stream) -> bool:
        """Let the stream flow. False where it already did."""
        return bool(self._redis.hdel(GATES, stream.queue))

    def get(self, stream: Stream) -> Gate | None:
        """The stream's closed gate, or None where it flows."""
        found = self._redis.hget(GATES, stream.queue)
        return None if found is None else _read(found)

    def closed(self) -> dict[str, Gate]:
        """All closed gates, by queue."""
        gates = self._redis.hgetall(GATES).items()
        return {queue: _read(gate) for queue, gate in gates if is_stream_queue(queue)}


def _read(text: str) -> Gate:
    """A gate that cannot be read is closed all the same: somebody has meant it to be."""
    return entry(Gate, text) or Gate(UNREADABLE, "")

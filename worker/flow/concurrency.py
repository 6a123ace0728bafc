"""How many of its pool's processes a worker gives to one stream, and to probes.

A stream that answers slowly occupies the processes that wait for it. Without a limit it would
occupy all of them, and every other stream would wait with it.
"""

from collections import defaultdict
from collections.abc import Callable, Collection
from math import inf

from worker.flow.queue_pauses import QueuePauses

CONCURRENCY_LIMIT = "concurrency limit"
"""The reason for which a queue is paused while its stream is at its limit."""
SHARE_DIVISOR = 4
"""A stream starts with one of so many parts of the pool and always leaves one to the others; probes
have one. A smaller pool has no concurrency limit."""
MIN_START = 2
"""Processes that a stream may have at least before any of its messages has ended."""
LIMIT_KEPT_SECONDS = 10.0
"""A stream whose last message ended longer ago starts slowly again."""


class Pool:
    """The messages of streams that this worker's pool has, and the number of the pool's processes."""

    def __init__(self, processes: Callable[[], int]) -> None:
        self._processes = processes
        self._message_ids: defaultdict[str, set[str]] = defaultdict(set)
        """By queue."""

    @property
    def processes(self) -> int:
        """How many processes the pool has, or may grow to."""
        return self._processes()

    def add(self, queue: str, message_id: str) -> None:
        """A message enters."""
        self._message_ids[queue].add(message_id)

    def remove(self, queue: str, message_id: str) -> None:
        """A message ends."""
        self._keep(queue, self._message_ids[queue] - {message_id})

    def retain(self, message_ids: Collection[str]) -> None:
        """Forget all messages but these: Celery has dropped the others without an end."""
        for queue, known in list(self._message_ids.items()):
            self._keep(queue, known.intersection(message_ids))

    def count(self, queue: str) -> int:
        """How many of a queue's messages the pool has."""
        return len(self._message_ids.get(queue, ()))

    @property
    def total(self) -> int:
        """How many messages of streams the pool has."""
        return sum(map(len, self._message_ids.values()))

    def queues_with(self, message_ids: Collection[str]) -> int:
        """Count the queues of which the pool has one of these messages."""
        return sum(not known.isdisjoint(message_ids) for known in self._message_ids.values())

    def _keep(self, queue: str, message_ids: set[str]) -> None:
        if message_ids:
            self._message_ids[queue] = message_ids
        else:
            del self._message_ids[queue]


class ConcurrencyLimits:
    """Limits how many messages of one stream the pool has at a time, with a slow start.

    A stream starts with a quarter of the pool. Each message that ends while the stream is at its limit
    raises the limit by one, up to three quarters. So a stream that does not answer is found out before
    it has occupied more than a quarter.
    """

    def __init__(self, pool: Pool, pauses: QueuePauses, monotonic: Callable[[], float]) -> None:
        self._pool = pool
        self._pauses = pauses
        self._monotonic = monotonic
        self._raised: dict[str, float] = {}
        """By queue, its limit, where that is above the start."""
        self._ended_at: dict[str, float] = {}
        """By queue with a raised limit, when one of its messages last ended, in the clock's seconds."""

    def check(self, queue: str) -> bool:
        """Whether the pool may have one more of the queue's messages. Changes nothing."""
        return self._pool.count(queue) < self.limit(queue)

    def limit(self, queue: str) -> float:
        """How many of the queue's messages the pool may have; infinite in a small pool."""
        processes = self._pool.processes
        part = processes // SHARE_DIVISOR
        if not part:
            return inf
        return min(self._raised.get(queue, max(part, MIN_START)), processes - part)

    def pause(self, queue: str) -> None:
        """Pause a queue at its limit until one of its messages ends."""
        self._pauses.pause(queue, CONCURRENCY_LIMIT)

    def message_enters(self, queue: str, message_id: str) -> None:
        """Count a message that enters the pool."""
        self._forget_old_limit(queue)
        self._pool.add(queue, message_id)
        if not self.check(queue):
            self.pause(queue)

    def message_ends(self, queue: str, message_id: str) -> None:
        """Count a message that has ended, and resume its queue where there is room again."""
        was_at_limit = self._pauses.has(queue, CONCURRENCY_LIMIT)
        if was_at_limit:
            self._raised[queue] = self.limit(queue) + 1
        if queue in self._raised:
            self._ended_at[queue] = self._monotonic()
        self._pool.remove(queue, message_id)
        # The pool may have grown or shrunk meanwhile.
        if was_at_limit and self.check(queue):
            self._pauses.end(queue, CONCURRENCY_LIMIT)

    def retain(self, message_ids: Collection[str]) -> None:
        """Forget all messages but these, and resume the queues that have room now."""
        self._pool.retain(message_ids)
        for queue in self._pauses.queues(CONCURRENCY_LIMIT):
            if self.check(queue):
                self._pauses.end(queue, CONCURRENCY_LIMIT)

    def _forget_old_limit(self, queue: str) -> None:
        if self._monotonic() - self._ended_at.get(queue, inf) > LIMIT_KEPT_SECONDS:
            del self._raised[queue], self._ended_at[queue]


class ProbeLimit:
    """Limits how many streams the pool probes at a time.

    A stream that does not answer occupies its probe's process for half a minute, again and again. So the
    probes of all streams have a quarter of the pool. Streams that have begun to fail within the last minute
    share one process more, so that they need not wait for those; but never more than half of the pool.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._probes: set[str] = set()
        """IDs of messages that were admitted as probes."""

    def check(self) -> bool:
        """Whether the pool may probe one stream more."""
        return self._in_flight < self._limit

    def check_newly_failing(self) -> bool:
        """Whether the pool may probe one stream more that has not failed for long."""
        return self._in_flight < min(self._limit + 1, self._pool.processes // 2)

    def add(self, message_id: str) -> None:
        """Count a message that was admitted as a probe."""
        self._probes.add(message_id)

    def discard(self, message_id: str) -> None:
        """Forget a message that has ended."""
        self._probes.discard(message_id)

    def retain(self, message_ids: Collection[str]) -> None:
        """Forget all messages but these."""
        self._probes.intersection_update(message_ids)

    @property
    def _limit(self) -> int:
        return max(self._pool.processes // SHARE_DIVISOR, 1)

    @property
    def _in_flight(self) -> int:
        return self._pool.queues_with(self._probes)

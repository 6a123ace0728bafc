"""Messages that RabbitMQ has sent ahead and that the pool has no room for yet.

RabbitMQ sends a worker as many messages of each queue as its pool has processes, whatever the pool has room
for. Two kinds of them wait here unacknowledged, and are admitted a queue in turn: those of a stream at its
concurrency limit, and those that come while the pool has a message for each of its processes. Requeued, they
would come back at once, and a quorum queue counts how often.
"""

from collections import deque
from collections.abc import Callable

from worker.flow.concurrency import ConcurrencyLimits, Pool
from worker.flow.queue_pauses import Timer

Admission = Callable[[], object]
"""Admits a message that has waited, or requeues it."""


class PrefetchedMessages:
    """Prefetched messages by queue, and the room for them."""

    def __init__(self, pool: Pool, concurrency: ConcurrencyLimits, timer: Timer) -> None:
        self._pool = pool
        self._concurrency = concurrency
        self._timer = timer
        self._waiting: dict[str, deque[Admission]] = {}
        """The queue whose turn is next comes first."""

    def has_room(self, queue: str) -> bool:
        """Whether the pool has room for one more message of the queue."""
        return self._pool.total < self._pool.processes and self._concurrency.check(queue)

    def add(self, queue: str, admit: Admission) -> None:
        """Have a message wait, and call `admit` once there is room for it."""
        self._waiting.setdefault(queue, deque()).append(admit)

    def message_ends(self) -> None:
        """Admit what there is room for now. The worker's loop does it, as it meets errors of the broker."""
        if self._waiting:
            self._timer.call_after(0, self._admit_waiting, ())

    def clear(self) -> None:
        """Forget all messages: the broker was lost, and sends them again."""
        self._waiting.clear()

    def _admit_waiting(self) -> None:
        while queue := next(filter(self.has_room, self._waiting), None):
            waiting = self._waiting.pop(queue)
            admit = waiting.popleft()
            if waiting:
                self._waiting[queue] = waiting
            admit()


class StillConsumed:
    """Queues that a concurrency limit does not pause: their messages wait in the worker."""

    def pause(self, queue: str) -> None:
        """Leave the queue as it is."""

    def resume(self, queue: str) -> None:
        """Leave the queue as it is."""

"""Pauses consuming streams' queues. A queue is consumed again when no reason to pause it is left.

The backlog of a paused queue stays in the broker, where other workers can reserve it.
"""

from collections.abc import Callable
from math import inf
from typing import Any, Protocol

TIMER_TOLERANCE_SECONDS = 0.002
"""A timer may fire this much too early. The pause counts as over then, as no second timer follows."""


class ConsumedQueues(Protocol):
    """The queues that this worker consumes."""

    def pause(self, queue: str) -> None:
        """Stop consuming the queue. Pausing it again changes nothing."""

    def resume(self, queue: str) -> None:
        """Consume the queue again, if its stream may flow."""


class Timer(Protocol):
    """The timer of the worker's event loop."""

    def call_after(self, seconds: float, function: Callable[..., object], args: tuple[Any, ...]) -> object:
        """Call the function once, after so many seconds."""


class QueuePauses:
    """Reasons for which queues are paused. A reason may pause many queues, and each has its own end."""

    def __init__(self, queues: ConsumedQueues, timer: Timer, monotonic: Callable[[], float]) -> None:
        self._queues = queues
        self._timer = timer
        self._monotonic = monotonic
        self._ends: dict[str, dict[str, float]] = {}
        """By reason and queue, when the pause ends, in the clock's seconds; infinite where `end` ends it."""

    def pause(self, queue: str, reason: str) -> None:
        """Pause a queue until `end` is called with the same reason."""
        self._ends.setdefault(reason, {})[queue] = inf
        self._queues.pause(queue)

    def pause_for(self, queue: str, reason: str, seconds: float) -> None:
        """Pause a queue for at least so long."""
        end = self._monotonic() + seconds
        ends = self._ends.setdefault(reason, {})
        ends[queue] = max(end, ends.get(queue, end))
        # The timer comes first: pausing talks to RabbitMQ, and that connection may just break.
        self._timer.call_after(seconds, self._end_if_over, (queue, reason))
        self._queues.pause(queue)

    def pause_again(self, queue: str) -> None:
        """Repeat a pause that still lasts: the worker consumes every queue when it has reconnected."""
        self._queues.pause(queue)

    def has(self, queue: str, reason: str) -> bool:
        """Whether the reason still pauses the queue."""
        return self._lasts(self._ends.get(reason, {}).get(queue, -inf))

    def queues(self, reason: str) -> list[str]:
        """The queues that the reason pauses."""
        return list(self._ends.get(reason, {}))

    def count(self, reason: str) -> int:
        """How many queues the reason pauses."""
        return sum(map(self._lasts, self._ends.get(reason, {}).values()))

    def end(self, queue: str, reason: str) -> None:
        """Drop a reason. The queue is consumed again if it was the last one."""
        self._ends.get(reason, {}).pop(queue, None)
        if not any(self.has(queue, other) for other in self._ends):
            self._queues.resume(queue)

    def end_all(self, reason: str) -> None:
        """Drop a reason for each queue that it pauses."""
        for queue in self.queues(reason):
            self.end(queue, reason)

    def _end_if_over(self, queue: str, reason: str) -> None:
        if queue in self._ends[reason] and not self.has(queue, reason):
            self.end(queue, reason)

    def _lasts(self, end: float) -> bool:
        return end - self._monotonic() > TIMER_TOLERANCE_SECONDS

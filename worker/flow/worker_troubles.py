"""Pauses the streams that this worker cannot deliver to for a reason of its own: no network, no credentials,
a wrong clock. Other workers go on: the reason is kept in this process and in no circuit breaker.

A trouble concerns a configuration in a region, because its streams share an endpoint and credentials.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from worker.failures.alert_types import Failure
from worker.flow.queue_pauses import QueuePauses
from worker.queues import is_stream_queue, stream_of

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
"""The pause doubles with each trouble in a row, up to this."""
ALERT_AFTER = 3
"""Troubles in a row from which on operators are notified: a hiccup of the network is no news."""
REASON = "worker trouble"


class _Subject(NamedTuple):
    configuration: str
    region: str


@dataclass
class _Trouble:
    in_a_row: int = 0
    pause_ends: float = 0.0
    """In the clock's seconds."""


class WorkerTroubles:
    """This worker's troubles, by configuration and region. Each delivery that succeeds ends one."""

    def __init__(
        self,
        pauses: QueuePauses,
        stream_queues: Callable[[], Iterable[str]],
        report: Callable[[Failure], None],
        monotonic: Callable[[], float],
    ) -> None:
        self._pauses = pauses
        self._stream_queues = stream_queues
        self._report = report
        self._monotonic = monotonic
        self._troubles: dict[_Subject, _Trouble] = {}

    def begin(self, queue: str, failure: Failure) -> None:
        """Pause all streams that share the trouble which a message of this queue met.

        A message that was in flight as the pause began tells nothing new.
        """
        trouble = self._troubles.setdefault(_subject(queue), _Trouble())
        left = trouble.pause_ends - self._monotonic()
        if left > 0:
            self._pauses.pause_for(queue, REASON, left)
            return
        trouble.in_a_row += 1
        pause = min(FIRST_PAUSE_SECONDS * 2 ** (trouble.in_a_row - 1), LONGEST_PAUSE_SECONDS)
        trouble.pause_ends = self._monotonic() + pause
        for paused in {queue, *self._queues_of(_subject(queue))}:
            self._pauses.pause_for(paused, REASON, pause)
        if trouble.in_a_row >= ALERT_AFTER:
            self._report(failure)

    def end(self, queue: str) -> None:
        """A message of this queue was delivered."""
        if self._troubles:
            self._troubles.pop(_subject(queue), None)

    def _queues_of(self, subject: _Subject) -> list[str]:
        return [
            queue for queue in self._stream_queues() if is_stream_queue(queue) and _subject(queue) == subject
        ]


def _subject(queue: str) -> _Subject:
    stream = stream_of(queue)
    return _Subject(stream.configuration, stream.region)

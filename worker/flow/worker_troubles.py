"""Pauses the streams that this worker cannot deliver to for a reason of its own: no network, no credentials,
a wrong clock. Other workers go on: the reason is kept in this process.

A trouble concerns a configuration in a region, because its streams share an endpoint and credentials. If
it lasts and no other worker delivers to a stream either, the stream's circuit breaker opens for all workers:
the stream cannot be reached from anywhere, and one batch at a time finds out when it can.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from redis.exceptions import RedisError

from worker.failures.alert_types import Failure
from worker.flow.queue_pauses import QueuePauses
from worker.queues import is_stream_queue, stream_of

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
"""The pause doubles with each trouble in a row, up to this."""
LASTS_AFTER_TROUBLES = 3
"""Troubles in a row from which on a trouble lasts, and operators are notified: a hiccup of the network is no
news."""
REASON = "worker trouble"

logger = logging.getLogger(__name__)


class _Subject(NamedTuple):
    configuration: str
    region: str


@dataclass
class _Trouble:
    in_a_row: int = 0
    pause_ends: float = 0.0
    """In the clock's seconds."""
    delivered: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By queue, the trouble of the row that one of its messages last met, and how many records all workers
    had delivered to its stream by then."""


class WorkerTroubles:
    """This worker's troubles, by configuration and region. Each delivery that succeeds ends one."""

    def __init__(
        self,
        *,
        pauses: QueuePauses,
        stream_queues: Callable[[], Iterable[str]],
        report: Callable[[Failure], object],
        delivered: Callable[[str], int],
        open_breaker: Callable[[str, Failure], None],
        monotonic: Callable[[], float],
    ) -> None:
        """`delivered` counts the records that all workers have delivered to a queue's stream, and
        `open_breaker` opens its circuit breaker; both may raise `RedisError`."""
        self._pauses = pauses
        self._stream_queues = stream_queues
        self._report = report
        self._delivered = delivered
        self._open_breaker = open_breaker
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
        else:
            self._pause(trouble, queue, failure)
        self._open_if_nobody_delivers(trouble, queue, failure)

    def end(self, queue: str) -> None:
        """A message of this queue was delivered."""
        if self._troubles:
            self._troubles.pop(_subject(queue), None)

    def _pause(self, trouble: _Trouble, queue: str, failure: Failure) -> None:
        trouble.in_a_row += 1
        pause = min(FIRST_PAUSE_SECONDS * 2 ** (trouble.in_a_row - 1), LONGEST_PAUSE_SECONDS)
        trouble.pause_ends = self._monotonic() + pause
        for paused in {queue, *self._queues_of(_subject(queue))}:
            self._pauses.pause_for(paused, REASON, pause)
        if trouble.in_a_row >= LASTS_AFTER_TROUBLES:
            self._report(failure)

    def _open_if_nobody_delivers(self, trouble: _Trouble, queue: str, failure: Failure) -> None:
        try:
            delivered = self._delivered(queue)
            met, before = trouble.delivered.get(queue, (trouble.in_a_row, delivered))
            trouble.delivered[queue] = trouble.in_a_row, delivered
            if LASTS_AFTER_TROUBLES <= trouble.in_a_row > met and before == delivered:
                self._open_breaker(queue, failure)
        except RedisError as error:
            logger.warning("%s: a stream in trouble is left as it is", type(error).__name__)

    def _queues_of(self, subject: _Subject) -> list[str]:
        return [
            queue for queue in self._stream_queues() if is_stream_queue(queue) and _subject(queue) == subject
        ]


def _subject(queue: str) -> _Subject:
    stream = stream_of(queue)
    return _Subject(stream.configuration, stream.region)

"""Admits a batch to its stream by what all workers share: the stream's circuit breaker and its quota.

An atomic script does both, so that it costs one call of Redis a batch, and no two workers spend the same
quota. A quota is what Firehose allows a stream, whoever sends.
"""

from collections.abc import Callable
from typing import NamedTuple

from redis import Redis

from schemas.quotas import Quota
from worker.flow.circuit_breakers import LONGEST_OPEN_SECONDS, OPEN_KEY, PAUSED_KEY
from worker.queues import Stream
from worker.store.atomic import WRITE_FIRST_KEY
from worker.store.scripts import Script

USED_KEY_PREFIX = "audience:quota"
"""Followed by a stream's queue: what it has used of its quota."""
BURST_SECONDS = 0.1
"""How much of its quota a stream may take in advance. As a batch is a tenth of a second's quota at most, a
stream takes 104 % in its worst five seconds, and a worker that wakes late wastes nothing."""
PROBE_TIMEOUT_SECONDS = 40.0
"""A probe of which nothing is heard for so long is taken for lost. A call of Firehose takes less."""
CLOCK_TOLERANCE_SECONDS = 60.0
"""Usage that is recorded for a time further ahead was recorded by a clock that has been put back since."""
ADMITTED_AS_PROBE = 2
"""The script's answer to a batch that probes its stream."""

ACQUIRE = Script(__package__, "acquire")


class Cost(NamedTuple):
    """The part of its stream's quota that a batch takes, or a run of batches."""

    records: int
    bytes: int
    requests: int = 1


class Decision(NamedTuple):
    """Whether a batch is admitted."""

    admitted: bool
    wait: float
    """Seconds until there is a point in trying again, or until the next batch may go where this one was
    admitted. Infinite where the stream is PAUSED, or may only be probed and not by this batch."""
    is_probe: bool = False
    """Whether the batch's outcome decides about the stream's breaker."""
    is_closed: bool = True
    """Whether the stream's breaker is CLOSED."""


class Admission:
    """Admits batches. The clocks of all workers should agree, as NTP keeps them."""

    def __init__(self, redis: Redis, clock: Callable[[], float]) -> None:
        self._redis = redis
        self._clock = clock

    def acquire(
        self, stream: Stream, cost: Cost, quota: Quota, may_probe: bool = True, message_id: str = ""
    ) -> Decision:
        """Admit a message's batch of this size, or say how long to wait. An admitted one counts as sent."""
        limits = (PROBE_TIMEOUT_SECONDS, BURST_SECONDS, LONGEST_OPEN_SECONDS, CLOCK_TOLERANCE_SECONDS)
        costs = (cost.requests, quota.requests, cost.records, quota.records, cost.bytes, quota.bytes)
        answer, wait, is_closed = ACQUIRE(
            self._redis,
            keys=[PAUSED_KEY, OPEN_KEY, f"{USED_KEY_PREFIX}:{stream.queue}", WRITE_FIRST_KEY],
            args=[stream.queue, message_id, int(may_probe), self._clock(), *limits, *costs],
        )
        return Decision(bool(answer), float(wait), answer == ADMITTED_AS_PROBE, bool(is_closed))

"""Boot step: records the counters of runs that were handed over and not counted.

A run's process records them right after it has handed the run over. If it was lost in between, or the
state was away, the broker still has the counts.
"""

import logging
from typing import Any

from celery.worker.consumer import Consumer
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from worker.broker.redis.reservations import Connected
from worker.consumer.periodic.periodic_check import PeriodicCheck
from worker.state.run_counts import RunCounts, RunRecorder
from worker.store.entries import CORRUPT_ERRORS

CHECK_INTERVAL_SECONDS = 5.0
LATE_AFTER_SECONDS = 5.0
"""For so long a run's own process may still be about to record its counters."""

logger = logging.getLogger(__name__)


class UncountedRuns(PeriodicCheck):
    """Looks for such runs while the worker consumes."""

    interval_seconds = CHECK_INTERVAL_SECONDS

    def __init__(self, consumer: Consumer, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._corrupt: set[str] = set()
        """IDs of runs whose counts are corrupt, each of which is logged once."""

    def check(self, consumer: Consumer) -> None:
        """Record what is late. Without a server it stays for the next check."""
        try:
            with consumer.app.reservations.open() as connected:
                if isinstance(connected, Connected):
                    services = consumer.app.services
                    record_late(connected, services.run_recorder, services.clock(), self._corrupt)
        except (RedisError, OperationalError) as error:
            logger.warning("%s: the counters of runs are recorded later", type(error).__name__)


def record_late(connected: Connected, recorder: RunRecorder, now: float, corrupt: set[str]) -> None:
    """Record the runs that were handed over some time ago and are not counted. Raises `RedisError`.

    What cannot be read, as a newer worker may have written it, is left alone and added to `corrupt`.
    """
    for run_id, text in connected.uncounted().items():
        try:
            counts, at = RunCounts.from_json(text)
        except (*CORRUPT_ERRORS, KeyError):
            if run_id not in corrupt:
                logger.error("what is to be counted of run %s is corrupt", run_id)
            corrupt.add(run_id)
            continue
        if now - at > LATE_AFTER_SECONDS:
            recorder.record(run_id, counts)
            connected.forget_counted(run_id)
            logger.warning("run %s is counted late: its process was lost", run_id)

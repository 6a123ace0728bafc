"""Boot step: tells operators of a broker that answers, but cannot serve (READONLY, MISCONF, LOADING …).

The worker waits until it can, and connects again. The state may be on the same server, so the alert is
stored, at the latest, once the worker is connected again.
"""

import logging
import time
from collections.abc import Callable
from itertools import count
from typing import Any

from celery import bootsteps
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown
from kombu.exceptions import OperationalError
from redis.backoff import EqualJitterBackoff
from redis.exceptions import RedisError

from worker.broker.redis.client import ServerUnavailable, try_write
from worker.failures.alert_types import AlertType, Failure
from worker.failures.worker_trouble import report_worker_trouble

ADVICE = {
    "READONLY": "it is a replica: after a failover the URL must lead to the new master",
    "NOREPLICAS": "it has fewer replicas than `min-replicas-to-write`: bring them back",
    "MISCONF": "it cannot write its snapshot: see its log and the space on its disk",
    "BUSY": "a script runs for too long: see SLOWLOG",
    "LOADING": "it reads its data after a start: wait",
    "MASTERDOWN": "it is a replica that has lost its master",
}
BACKOFF = EqualJitterBackoff(base=0.5, cap=5)
"""Seconds between two attempts. A failover takes seconds, and replicas are away for hours perhaps."""
DOUBLINGS = 5
"""How often the backoff grows."""
SIGNAL_CHECK_SECONDS = 0.2
"""A worker that waits checks this often whether a signal is to stop it."""

logger = logging.getLogger(__name__)


class BrokerTrouble(bootsteps.StartStopStep):  # type: ignore[misc]
    """Raises the alert of the last lost connection, where the broker said why it does not serve."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(
        self, consumer: Consumer, sleep: Callable[[float], None] = time.sleep, **options: Any
    ) -> None:
        super().__init__(consumer, **options)
        self._unreported: Failure | None = None
        self._sleep = sleep
        consumer.broker_trouble = self

    def lost(self, consumer: Consumer, error: Exception) -> None:
        """Tell operators why the broker was lost, now or when the worker is connected again.

        Returns when the broker can serve, or is away; the worker then connects again. Celery alone would do
        so five times a second, with some lines each time. Raises `WorkerShutdown` once a signal has stopped
        the worker.
        """
        if isinstance(error, ServerUnavailable):
            self._unreported = failure_of(error)
            self.start(consumer)
            self._wait(consumer)

    def start(self, consumer: Consumer) -> None:
        """Tell what could not be stored when it happened. Celery calls this when it has connected."""
        alerts = consumer.app.services.alerts
        if self._unreported and report_worker_trouble(alerts, consumer.hostname, self._unreported):
            self._unreported = None

    def _wait(self, consumer: Consumer) -> None:
        for attempt in count():
            self._pause(BACKOFF.compute(min(attempt, DOUBLINGS)))
            try:
                try_write(consumer.app)
            except ServerUnavailable:
                continue
            except (RedisError, OperationalError, OSError):
                return
            logger.warning("the broker can serve again")
            return

    def _pause(self, seconds: float) -> None:
        for _ in range(round(seconds / SIGNAL_CHECK_SECONDS)):
            maybe_shutdown()
            self._sleep(SIGNAL_CHECK_SECONDS)


def failure_of(error: ServerUnavailable) -> Failure:
    """The failure that the alert reports."""
    advice = ADVICE.get(error.code, "see its log")
    message = f"the broker responds {error.code}, and the worker waits until it can serve: {advice}"
    return Failure(AlertType.WORKER_TROUBLE, error.code, message)

"""Boot step: tells operators of a broker that answers, but cannot serve (READONLY, MISCONF, LOADING …).

The worker reconnects until it can. The state may be on the same server, so the alert is stored, at the
latest, once the worker is connected again.
"""

from typing import Any

from celery import bootsteps
from celery.worker.consumer import Consumer

from worker.broker.redis.client import ServerUnavailable
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


class BrokerTrouble(bootsteps.StartStopStep):  # type: ignore[misc]
    """Raises the alert of the last lost connection, where the broker said why it does not serve."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Consumer, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._untold: Failure | None = None
        consumer.broker_trouble = self

    def lost(self, consumer: Consumer, error: Exception) -> None:
        """Tell operators why the broker was lost, now or when the worker is connected again."""
        if isinstance(error, ServerUnavailable):
            self._untold = failure_of(error)
            self.start(consumer)

    def start(self, consumer: Consumer) -> None:
        """Tell what could not be stored when it happened. Celery calls this when it has connected."""
        alerts = consumer.app.services.alerts
        if self._untold and report_worker_trouble(alerts, consumer.hostname, self._untold):
            self._untold = None


def failure_of(error: ServerUnavailable) -> Failure:
    """The failure that the alert reports."""
    advice = ADVICE.get(error.code, "see its log")
    message = f"the broker responds {error.code}, and the worker connects again and again: {advice}"
    return Failure(AlertType.WORKER_TROUBLE, error.code, message)

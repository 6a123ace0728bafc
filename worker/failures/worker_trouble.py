"""Tells operators of a worker that cannot deliver."""

import logging

from redis.exceptions import RedisError

from worker.failures.alert_types import AlertType, Failure
from worker.failures.alerts import Alerts

logger = logging.getLogger(__name__)


def report_worker_trouble(alerts: Alerts, worker: str, failure: Failure) -> bool:
    """Raise an alert that names the worker and the cause; one of a worker and an error code in a cooldown.

    `worker` is the worker's name, as Flower shows it. A Redis that is away is logged: the worker's trouble
    lasts, and is reported again. Returns False in that case.
    """
    message = f"{worker}: {failure.message}; its batches stay in the broker for other workers"
    logger.warning("worker trouble (%s): %s", failure.error_code, message)
    sender = f"{worker}:{failure.error_code}"
    try:
        if alerts.start_cooldown(f"{AlertType.WORKER_TROUBLE}:{sender}"):
            alerts.raise_alert(failure._replace(message=message), sender=sender)
    except RedisError as error:
        logger.warning("%s: the alert could not be raised", type(error).__name__)
        return False
    return True

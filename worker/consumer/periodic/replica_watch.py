"""Boot step: watches that servers have the replicas that AUDIENCE_REDIS_WAIT_REPLICAS waits for.

A replica that hangs keeps its connection, so those count that have just said how far they are.
"""

import logging

from celery.worker.consumer import Consumer
from redis.exceptions import RedisError

from worker.consumer.periodic.memory_watch import servers
from worker.consumer.periodic.periodic_check import PeriodicCheck
from worker.failures.alert_types import AlertType, Failure
from worker.store.server_checks import confirming_replicas

WATCH_INTERVAL_SECONDS = 5.0
SUBJECT = "replicas"
"""The subject under which the alert is suppressed for 15 minutes, once raised."""

logger = logging.getLogger(__name__)


class ReplicaWatch(PeriodicCheck):
    """Raises an alert while a server has fewer replicas than are waited for."""

    interval_seconds = WATCH_INTERVAL_SECONDS

    def include_if(self, consumer: Consumer) -> bool:
        return bool(consumer.app.services.settings.redis_wait_replicas)

    def check(self, consumer: Consumer) -> None:
        """Alert where a server has too few."""
        services = consumer.app.services
        required = services.settings.redis_wait_replicas
        try:
            found = min(confirming_replicas(redis.info("replication")) for redis in servers(consumer))
            if found < required and services.alerts.start_cooldown(SUBJECT):
                services.alerts.raise_alert(too_few(found, required))
        except RedisError as error:
            logger.warning("cannot see the replicas of Redis: %s", type(error).__name__)


def too_few(found: int, required: int) -> Failure:
    """The failure that the alert shows."""
    message = (
        f"Redis has {found} replicas that keep up, and AUDIENCE_REDIS_WAIT_REPLICAS asks for {required}:"
        " messages and dead letters take longer, and a failover may lose some; bring the replicas back"
    )
    return Failure(AlertType.WORKER_TROUBLE, "TooFewReplicas", message)

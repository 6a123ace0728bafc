"""Boot step: watches the memory of Redis, the broker's and the state's.

It alerts operators before a Redis is full. A full Redis refuses callers' messages, and also the batches that
producer tasks would make. So while one is full, this worker does not consume changes, and its pool delivers.
Otherwise it consumes them, unless it was started without them.
"""

import logging
from collections.abc import Iterator
from typing import Any

from celery.worker.consumer import Consumer
from kombu.transport import redis as redis_transport
from redis import Redis
from redis.exceptions import RedisError

from worker.consumer.periodic.periodic_check import PeriodicCheck
from worker.failures.alert_types import AlertType, Failure
from worker.failures.alerts import Alerts
from worker.queues import CHANGES_QUEUE
from worker.store.server_checks import Finding, Outcome, check_eviction
from worker.upstream import selected_queues

WATCH_INTERVAL_SECONDS = 1.0
"""Callers can fill megabytes in a second."""
ALERT_FRACTION = 0.9
"""Operators are alerted from this fraction of `maxmemory` on."""
FULL_FRACTION = 0.98
"""Changes stay in their queue from this fraction of `maxmemory` on. Not 1: callers fill what is freed."""
SUBJECT = "memory"
"""The subject under which the alert is suppressed for 15 minutes, once raised."""

EVICTION_SUBJECT = "eviction"

logger = logging.getLogger(__name__)


class MemoryWatch(PeriodicCheck):
    """Alerts, and stops consuming changes, while a Redis is nearly full or full."""

    interval_seconds = WATCH_INTERVAL_SECONDS

    def __init__(self, consumer: Consumer, **options: Any) -> None:
        super().__init__(consumer, **options)
        selected = selected_queues(consumer.app)
        self._consumes_changes = selected is None or CHANGES_QUEUE in selected

    def check(self, consumer: Consumer) -> None:
        """Alert where a Redis is nearly full or evicts; consume changes only where none is full."""
        alerts, memories = consumer.app.services.alerts, []
        try:
            for redis in servers(consumer):
                memory = redis.info("memory")
                alert_of_eviction(alerts, check_eviction(redis, memory))
                memories.append(memory)
            fullest = max(memories, key=fullness)
            if fullness(fullest) >= ALERT_FRACTION:
                alert(alerts, fullest)
        except RedisError as error:
            logger.warning("cannot see how full Redis is: %s", type(error).__name__)
            return
        if self._consumes_changes:
            reconcile_changes(consumer, should_consume=fullness(fullest) < FULL_FRACTION)


def reconcile_changes(consumer: Consumer, *, should_consume: bool) -> None:
    """Start or stop consuming changes, also where `cancel_consumer` or `add_consumer` has said otherwise."""
    if consumer.task_consumer.consuming_from(CHANGES_QUEUE) == should_consume:
        return
    if should_consume:
        consumer.add_task_queue(CHANGES_QUEUE)
    else:
        consumer.cancel_task_queue(CHANGES_QUEUE)


def servers(consumer: Consumer) -> Iterator[Redis]:
    """The state's Redis, and the broker's, where it is Redis."""
    yield consumer.app.services.redis
    channel = consumer.connection.default_channel
    if isinstance(channel, redis_transport.Channel):
        with channel.conn_or_acquire() as client:
            yield client


def fullness(memory: dict[str, Any]) -> float:
    """The fraction of its `maxmemory` that a server uses; 0 where it has none."""
    limit: int = memory.get("maxmemory") or 0
    return memory["used_memory"] / limit if limit else 0.0


def alert(alerts: Alerts, memory: dict[str, Any]) -> None:
    """Raise an alert for a server with this memory, unless one was raised within the cooldown."""
    if not alerts.start_cooldown(SUBJECT):
        return
    problem = (
        f"Redis is nearly full: {memory['used_memory']} of {memory['maxmemory']} bytes; at its limit"
        " callers are refused, and nothing is dropped: raise `maxmemory`, or see with"
        " `audience-firehose status` what is paused or failing"
    )
    logger.error(problem)
    alerts.raise_alert(Failure(AlertType.INTERNAL_SERVER_ERROR, "OutOfMemory", problem))


def alert_of_eviction(alerts: Alerts, finding: Finding) -> None:
    """Raise an alert for a server that removes messages when it is full, once within the cooldown."""
    if finding.outcome == Outcome.FAILED and alerts.start_cooldown(EVICTION_SUBJECT):
        logger.error("Redis: %s: %s", finding.check, finding.message)
        alerts.raise_alert(
            Failure(AlertType.WORKER_TROUBLE, "EvictionPolicy", f"Redis: {finding.check}: {finding.message}")
        )

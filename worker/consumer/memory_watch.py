"""Boot step: what is to be done when a Redis fills up.

Operators are told. A full Redis takes no message: callers are refused, and so is what would be made of
the changes that are there. They are left where they are, so that the pool is free for what empties it.
"""

import logging
from collections.abc import Iterator
from typing import Any

from celery import bootsteps
from celery.worker.consumer import Consumer
from kombu.transport import redis as redis_transport
from redis import Redis
from redis.exceptions import RedisError

from worker.failures.alert_types import AlertType, Failure
from worker.failures.alerts import Alerts
from worker.queues import CHANGES_QUEUE

LOOK_EVERY = 1.0
"""Seconds. What callers send fills megabytes in one."""
NEARLY_FULL = 0.9
"""Of `maxmemory`: operators are told."""
FULL = 0.98
"""Of `maxmemory`: changes are left in their queue. Not all of it, for callers take what becomes free."""
SUBJECT = "memory"
"""What the alert is quiet about for 15 minutes, once raised."""

logger = logging.getLogger(__name__)


class MemoryWatch(bootsteps.StartStopStep):  # type: ignore[misc]
    """Looks at the memory of the broker and of the state."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Consumer, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._timer: Any = None
        self._leaves_changes = False

    def start(self, consumer: Consumer) -> None:
        """Look from now on."""
        self._timer = consumer.timer.call_repeatedly(LOOK_EVERY, self.look, (consumer,))

    def stop(self, consumer: Consumer) -> None:
        """Do not look any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    shutdown = stop

    def look(self, consumer: Consumer) -> None:
        """Tell of a Redis that is nearly full; take changes only where none is full."""
        try:
            memories = [redis.info("memory") for redis in servers(consumer)]
            fullest = max(memories, key=fullness)
            if fullness(fullest) >= NEARLY_FULL:
                tell(consumer.app.services.alerts, fullest)
        except RedisError as error:
            logger.warning("cannot see how full Redis is: %s", type(error).__name__)
            return
        if fullness(fullest) >= FULL:
            self._leave_changes(consumer)
        elif self._leaves_changes:
            consumer.add_task_queue(CHANGES_QUEUE)
            self._leaves_changes = False

    def _leave_changes(self, consumer: Consumer) -> None:
        if consumer.task_consumer.consuming_from(CHANGES_QUEUE):
            consumer.cancel_task_queue(CHANGES_QUEUE)
            self._leaves_changes = True


def servers(consumer: Consumer) -> Iterator[Redis]:
    """The state's Redis, and the broker's where it is one."""
    yield consumer.app.services.redis
    channel = consumer.connection.default_channel
    if isinstance(channel, redis_transport.Channel):
        with channel.conn_or_acquire() as client:
            yield client


def fullness(memory: dict[str, Any]) -> float:
    """What share of its `maxmemory` a server uses; none where there is no limit."""
    limit: int = memory.get("maxmemory") or 0
    return memory["used_memory"] / limit if limit else 0.0


def tell(alerts: Alerts, memory: dict[str, Any]) -> None:
    """Raise an alert of a server with this memory, unless one was raised just now."""
    if alerts.is_quiet_about_all(SUBJECT):
        return
    problem = (
        f"Redis is nearly full: {memory['used_memory']} of {memory['maxmemory']} bytes; at its limit"
        " callers are refused, and nothing is dropped: raise `maxmemory`, or see with"
        " `audience-firehose status` what is paused or failing"
    )
    logger.error(problem)
    alerts.raise_alert(Failure(AlertType.INTERNAL_SERVER_ERROR, "OutOfMemory", problem))

"""Boot step: says that a Redis is filling up, while it can still be said.

A full Redis takes no message, so callers are refused. It takes no alert either.
"""

import logging
from collections.abc import Iterator
from typing import Any

from celery import bootsteps
from celery.worker.consumer import Consumer
from kombu.transport import redis as redis_transport
from redis import Redis
from redis.exceptions import RedisError

from worker.failures import AlertType, Failure

LOOK_EVERY = 1.0
"""Seconds. What callers send fills megabytes in one."""
NEARLY_FULL = 0.9
"""Of `maxmemory`."""
SUBJECT = "memory"
"""What the alert is quiet about for 15 minutes, once raised."""

logger = logging.getLogger(__name__)


class MemoryWatch(bootsteps.StartStopStep):  # type: ignore[misc]
    """Looks at the memory of the broker and of the state."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Consumer, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._timer: Any = None

    def start(self, consumer: Consumer) -> None:
        """Look from now on."""
        self._timer = consumer.timer.call_repeatedly(LOOK_EVERY, look, (consumer,))

    def stop(self, consumer: Consumer) -> None:
        """Do not look any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    shutdown = stop


def look(consumer: Consumer) -> None:
    """Raise an alert where a Redis is nearly full."""
    alerts = consumer.app.state.alerts
    try:
        for redis in servers(consumer):
            if (problem := fullness(redis.info("memory"))) and not alerts.is_quiet_about_all(SUBJECT):
                logger.error(problem)
                alerts.raise_alert(Failure(AlertType.INTERNAL_SERVER_ERROR, "OutOfMemory", problem))
    except RedisError as error:
        logger.warning("cannot see how full Redis is: %s", type(error).__name__)


def servers(consumer: Consumer) -> Iterator[Redis]:
    """The state's Redis, and the broker's where it is one."""
    yield consumer.app.state.redis
    channel = consumer.connection.default_channel
    if isinstance(channel, redis_transport.Channel):
        with channel.conn_or_acquire() as client:
            yield client


def fullness(memory: dict[str, Any]) -> str | None:
    """What is to be said of a server with this memory; nothing where there is room, or no limit."""
    used, limit = memory["used_memory"], memory.get("maxmemory") or 0
    if not limit or used < NEARLY_FULL * limit:
        return None
    return (
        f"Redis is nearly full: {used} of {limit} bytes; at its limit callers are refused, and nothing is"
        " dropped: raise `maxmemory`, or see with `audience-firehose status` what is paused or failing"
    )

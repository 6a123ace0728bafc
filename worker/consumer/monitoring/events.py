"""Events for those who watch the workers (Flower, `celery events`), which never delay a delivery.

A worker's main process sends them. Celery retries a worker's heartbeat for ever, while the process does
nothing else, not even stop. `worker.broker.rabbitmq.channel` does not wait for RabbitMQ's confirmation of an
event.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from celery.app.events import Events
from celery.events.dispatcher import EventDispatcher
from kombu import Producer

PUBLISH_TIMEOUT_SECONDS = 5.0
"""RabbitMQ: until an event is written. Redis has its connections' timeouts."""
PAUSE_AFTER_FAILURE_SECONDS = 30.0
"""Without another attempt once one has failed. Celery makes a new dispatcher when it has reconnected."""

logger = logging.getLogger(__name__)


class BoundedDispatcher(EventDispatcher):  # type: ignore[misc]
    """Sends an event once, for a bounded time, and drops what the broker does not accept."""

    def __init__(self, *args: Any, monotonic: Callable[[], float] = time.monotonic, **options: Any) -> None:
        self._monotonic = monotonic
        self._silent_until = -1.0
        super().__init__(*args, **options)

    def give_up(self) -> None:
        """Send no more, and close the connection without a word."""
        self._silent_until = math.inf
        if self.connection is not None:
            self.connection.collect()

    def _publish(
        self, event: Mapping[str, Any], producer: Producer | None, routing_key: str, **_retry: Any
    ) -> None:
        if producer is None or self._monotonic() < self._silent_until:
            return
        try:
            producer.publish(
                event,
                routing_key=routing_key,
                exchange=self.exchange.name,
                declare=[self.exchange],
                serializer=self.serializer,
                headers=self.headers,
                delivery_mode=self.delivery_mode,
                timeout=PUBLISH_TIMEOUT_SECONDS,
            )
        except Exception as error:
            self._silent_until = self._monotonic() + PAUSE_AFTER_FAILURE_SECONDS
            logger.warning(
                "%s: no events are sent for %d s; deliveries go on",
                type(error).__name__,
                PAUSE_AFTER_FAILURE_SECONDS,
            )


class BoundedEvents(Events):  # type: ignore[misc]
    """Celery's events, sent by such a dispatcher."""

    dispatcher_cls = "worker.consumer.monitoring.events:BoundedDispatcher"

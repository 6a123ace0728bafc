"""Boot step: task events are sent while somebody listens, a few times a second.

Task events cost a third to a half of the main process's time. Celery sends them where the worker was started
with `-E` or a monitor has asked for them (`enable_events`), and goes on when the monitor is gone. With Redis
as the broker a worker sees how many connections a broadcast reaches, so no monitor need ask. RabbitMQ does
not tell: there a monitor's question begins the events and `disable_events` ends them.
"""

import logging
from typing import Any

from celery import bootsteps
from celery.events import EventDispatcher
from celery.worker.consumer import Consumer
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

CHECK_INTERVAL_SECONDS = 5.0
"""Between two counts of the listeners; a monitor sees tasks so long after it began to listen."""
FLUSH_INTERVAL_SECONDS = 0.25
"""For which task events are collected into one broadcast."""
MAX_BUFFERED_EVENTS = 1000
"""More are sent before the interval is over."""
TASK_EVENTS = "task"
"""Celery's group of the events `task-received`, `task-started` and so on."""
REDIS = "redis"
"""kombu's name of the type of its transport."""
BATCH_ROUTING_KEY = "task.multi"
"""The routing key of a broadcast that holds a list of task events."""

logger = logging.getLogger(__name__)


class TaskEvents(bootsteps.StartStopStep):  # type: ignore[misc]
    """Counts the listeners, and turns task events on and off. With `-E` they are always on."""

    requires = ("celery.worker.consumer.events:Events",)

    def __init__(self, consumer: Consumer, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._check_timer: Any = None
        self._flush_timer: Any = None

    def start(self, consumer: Consumer) -> None:
        """Buffer task events, and count the listeners now and at each interval."""
        dispatcher: EventDispatcher = consumer.event_dispatcher
        dispatcher.buffer_limit = MAX_BUFFERED_EVENTS
        dispatcher.on_send_buffered = lambda: self._flush_later(consumer)
        # The timers of a connection that was lost are gone.
        self._flush_timer = None
        self.check(dispatcher)
        self._check_timer = consumer.timer.call_repeatedly(CHECK_INTERVAL_SECONDS, self.check, (dispatcher,))

    def stop(self, consumer: Consumer) -> None:
        """Count no more. A worker that stops sends what is buffered; a lost connection would block it."""
        if self._check_timer is not None:
            self._check_timer.cancel()
            self._check_timer = None
        if consumer.blueprint.state != bootsteps.RUN:
            self._flush(consumer)

    shutdown = stop

    def check(self, dispatcher: EventDispatcher) -> None:
        """Turn task events on or off, unless the worker was started with `-E`."""
        if not dispatcher.groups:
            return
        try:
            listeners = count_listeners(dispatcher)
        except (OperationalError, RedisError, OSError) as error:
            logger.warning("%s: cannot see whether somebody listens to task events", type(error).__name__)
            return
        if listeners:
            dispatcher.groups.add(TASK_EVENTS)
        elif listeners == 0:
            dispatcher.groups.discard(TASK_EVENTS)

    def _flush_later(self, consumer: Consumer) -> None:
        if self._flush_timer is None:
            self._flush_timer = consumer.timer.call_after(FLUSH_INTERVAL_SECONDS, self._flush, (consumer,))

    def _flush(self, consumer: Consumer) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        if consumer.event_dispatcher:
            consumer.event_dispatcher.flush()


def count_listeners(dispatcher: EventDispatcher) -> int | None:
    """How many connections listen to task events; None where the broker does not say.

    They are counted by a broadcast of no event, which needs no command of Redis that broadcasts do not need
    anyway. Raises `OperationalError`, `RedisError` or `OSError` where the broker is away.
    """
    if dispatcher.connection.transport.driver_type != REDIS:
        return None
    with dispatcher.mutex:
        producer = dispatcher.producer
        if producer is None:
            return None
        producer.publish(
            [],
            routing_key=BATCH_ROUTING_KEY,
            exchange=dispatcher.exchange.name,
            declare=[dispatcher.exchange],
            serializer=dispatcher.serializer,
            headers=dispatcher.headers,
            delivery_mode=dispatcher.delivery_mode,
        )
        receivers: int = producer.channel.receivers
        return receivers

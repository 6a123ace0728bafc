"""Boot step: which streams' queues this worker consumes right now.

Every second the worker compares what it consumes with what it should: the queue of
every registered stream whose breaker is open, narrowed by `AUDIENCE_REGIONS` and by `-Q`. New
streams, removed ones and pauses are all the same to it, and what a closed stream has
to deliver waits in the broker rather than in a worker.

In between, `worker.flow.control` holds the queue of a stream that must wait for a moment.
"""

import logging
import time
from functools import partial
from typing import Any

from celery import bootsteps
from celery.worker.consumer import Consumer
from kombu import Queue
from redis.exceptions import RedisError

from worker.config import current_settings
from worker.queues import is_stream_queue
from worker.upstream import known_request_ids, selected_queues

RECONCILE_EVERY = 1.0
"""Seconds. A new connection must be consumed within five, a resumed one within two."""
REFUSED = 60.0
"""Seconds for which a queue that cannot be declared is left alone. Each attempt costs the worker its
connection."""

logger = logging.getLogger(__name__)


class StreamQueues(bootsteps.StartStopStep):  # type: ignore[misc]
    """Adds and cancels streams' queues on a running worker."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Consumer, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._only = selected_queues(consumer.app)
        self._wanted = {queue for queue in self._only or () if is_stream_queue(queue)}
        self._consumed = set(self._wanted)
        self._paused: set[str] = set()
        self._declared: dict[str, Queue] = {}
        self._refused_until: dict[str, float] = {}
        """In the clock's seconds."""
        self._timers: list[Any] = []
        self._consumer = consumer
        consumer.stream_queues = self

    def start(self, consumer: Consumer) -> None:
        """Reconcile now and from now on. Also called after the broker was lost and found."""
        self._declared.clear()
        self._paused.clear()
        consumer.flow_control.reconnected(known_request_ids())
        self._reconcile(partial(self._add, at_once=False))
        again = consumer.timer.call_repeatedly(RECONCILE_EVERY, self._reconcile, (self._add,))
        self._timers.append(again)

    def stop(self, consumer: Consumer) -> None:
        """Leave the queues as they are; Celery closes them."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    shutdown = stop

    def pause(self, queue: str) -> None:
        """Stop consuming the queue until it is resumed."""
        self._paused.add(queue)
        self._cancel(queue)

    def resume(self, queue: str) -> None:
        """Consume the queue again, if its stream still is to flow."""
        self._paused.discard(queue)
        if self._timers and queue in self._wanted:
            self._add(queue)

    def _reconcile(self, add: Any) -> None:
        try:
            self._wanted = self._find_wanted()
        except RedisError as error:
            # What was wanted a second ago is the best guess; the tasks themselves need Redis too.
            logger.warning(
                "cannot read the registry, keeping the queues as they are: %s", type(error).__name__
            )
            return
        self._forget_unwanted()
        for queue in sorted(self._wanted - self._consumed - self._paused - self._refused_until.keys()):
            logger.info("consuming %s", queue)
            add(queue)
        for queue in sorted(self._consumed - self._wanted):
            logger.info("not consuming %s any more", queue)
            self._cancel(queue)

    def _find_wanted(self) -> set[str]:
        services = self._consumer.app.services
        closed = services.circuit_breakers.blocking()
        streams = [s for s in services.registry.snapshot().streams if s.region in current_settings().regions]
        queues: set[str] = {stream.queue for stream in streams} - closed.keys()
        return queues if self._only is None else queues & self._only

    def _forget_unwanted(self) -> None:
        """Where a stream does not flow, somebody may delete its queue, or mend it."""
        for queue in self._declared.keys() - self._wanted:
            del self._declared[queue]
        now = time.monotonic()
        self._refused_until = {
            queue: until
            for queue, until in self._refused_until.items()
            if queue in self._wanted and now < until
        }

    def _add(self, name: str, at_once: bool = True) -> None:
        """Have the worker consume a queue; if not at once, when its loop begins.

        Nobody handles messages before. RabbitMQ would deliver them all the same.
        """
        if name in self._consumed or name in self._refused_until:
            return
        try:
            self._consume(name, at_once)
        except self._consumer.channel_errors as error:
            self._begin_anew(name, error)

    def _consume(self, name: str, at_once: bool) -> None:
        queues, tasks = self._consumer.app.amqp.queues, self._consumer.task_consumer
        declared = tasks.add_queue(self._declared.get(name, queues[name]))
        if at_once:
            tasks.consume()
        # Declaring asks the broker thrice, and a held queue is added again many times a second.
        declared.no_declare = True
        self._declared[name] = declared
        # RabbitMQ's answer may come behind messages over which somebody holds the queue.
        if name in self._paused:
            return
        # What Celery consumes by itself after it has lost the broker.
        queues.select_add(queues[name])
        self._consumed.add(name)

    def _begin_anew(self, name: str, error: Exception) -> None:
        """The broker has closed the channel over a queue, and so consumes no queue for this worker any more.

        A queue that somebody has deleted since it was declared is declared again then.
        """
        logger.error("cannot consume %s: %s", name, error)
        self._consumer.app.amqp.queues.pop(name, None)
        if self._declared.pop(name, None) is None:
            self._refused_until[name] = time.monotonic() + REFUSED
        # Celery connects again where its loop meets the error. Whoever has added the queue may swallow it.
        self._timers.append(self._consumer.timer.call_after(0, _lose_connection))

    def _cancel(self, name: str) -> None:
        # Whoever consumes it: somebody may have told Celery to.
        self._consumed.discard(name)
        self._consumer.app.amqp.queues.deselect(name)
        self._consumer.app.amqp.queues.pop(name, None)
        self._consumer.task_consumer.cancel_by_queue(name)


def _lose_connection() -> None:
    raise ConnectionError("the broker has closed the channel")

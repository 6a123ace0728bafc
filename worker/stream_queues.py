"""Boot step: which streams' queues this worker consumes right now.

Every second the worker compares what it consumes with what it should: the queue of
every registered stream whose gate is open, narrowed by `-Q` where that was given. New
streams, removed ones and pauses are all the same to it, and what a closed stream has
to deliver waits in the broker rather than in a worker.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from celery import bootsteps
from celery.worker.consumer import Consumer
from redis.exceptions import RedisError

from worker.queues import is_stream_queue

RECONCILE_EVERY = 1.0
"""Seconds. A new connection must be consumed within five."""

logger = logging.getLogger(__name__)


class StreamQueues(bootsteps.StartStopStep):  # type: ignore[misc]
    """Adds and cancels streams' queues on a running worker."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Consumer, **options: Any) -> None:
        super().__init__(consumer, **options)
        # Celery offers no public way to ask whether `-Q` was given.
        selected = consumer.app.amqp.queues._consume_from
        self._only = None if selected is None else frozenset(selected)
        self._consumed = {queue for queue in selected or () if is_stream_queue(queue)}
        self._timer: Any = None

    def start(self, consumer: Consumer) -> None:
        """Reconcile now and from now on. Also called after the broker was lost and found."""
        self._reconcile(consumer, partial(_make_known, consumer))
        again = (consumer, consumer.add_task_queue)
        self._timer = consumer.timer.call_repeatedly(RECONCILE_EVERY, self._reconcile, again)

    def stop(self, consumer: Consumer) -> None:
        """Leave the queues as they are; Celery closes them."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    shutdown = stop

    def _reconcile(self, consumer: Consumer, add: Callable[[str], None]) -> None:
        try:
            wanted = self._wanted(consumer)
        except RedisError as error:
            # What was wanted a second ago is the best guess; the tasks themselves need Redis too.
            logger.warning(
                "cannot read the registry, keeping the queues as they are: %s", type(error).__name__
            )
            return
        for queue in sorted(wanted - self._consumed):
            add(queue)
        for queue in sorted(self._consumed - wanted):
            consumer.cancel_task_queue(queue)
        self._consumed = wanted

    def _wanted(self, consumer: Consumer) -> set[str]:
        state = consumer.app.state
        closed = state.gates.closed()
        streams = state.registry.snapshot().streams
        queues: set[str] = {stream.queue for stream in streams} - closed.keys()
        return queues if self._only is None else queues & self._only


def _make_known(consumer: Consumer, queue: str) -> None:
    """Have the worker consume a queue when its loop begins.

    Nobody handles messages before. RabbitMQ would deliver them all the same.
    """
    queues = consumer.app.amqp.queues
    consumer.task_consumer.add_queue(queues.select_add(queues[queue]))

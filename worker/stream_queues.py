"""Boot step: which streams' queues this worker consumes right now.

Every second the worker compares what it consumes with what it should: the queue of
every registered stream whose gate is open, narrowed by `AUDIENCE_REGIONS` and by `-Q`. New
streams, removed ones and pauses are all the same to it, and what a closed stream has
to deliver waits in the broker rather than in a worker.

In between, `worker.flow_control` holds the queue of a stream that must wait for a moment.
"""

import logging
from functools import partial
from typing import Any

from celery import bootsteps
from celery.worker.consumer import Consumer
from kombu import Queue
from redis.exceptions import RedisError

from worker.environment import environment
from worker.queues import is_stream_queue

RECONCILE_EVERY = 1.0
"""Seconds. A new connection must be consumed within five, a resumed one within two."""

logger = logging.getLogger(__name__)


class StreamQueues(bootsteps.StartStopStep):  # type: ignore[misc]
    """Adds and cancels streams' queues on a running worker."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Consumer, **options: Any) -> None:
        super().__init__(consumer, **options)
        # Celery offers no public way to ask whether `-Q` was given.
        selected = consumer.app.amqp.queues._consume_from
        self._only = None if selected is None else frozenset(selected)
        self._wanted = {queue for queue in selected or () if is_stream_queue(queue)}
        self._consumed = set(self._wanted)
        self._held: set[str] = set()
        self._declared: dict[str, Queue] = {}
        self._timer: Any = None
        self._consumer = consumer
        consumer.stream_queues = self

    def start(self, consumer: Consumer) -> None:
        """Reconcile now and from now on. Also called after the broker was lost and found."""
        self._declared.clear()
        self._held.clear()
        consumer.flow_control.reconnected()
        self._reconcile(partial(self._add, at_once=False))
        self._timer = consumer.timer.call_repeatedly(RECONCILE_EVERY, self._reconcile, (self._add,))

    def stop(self, consumer: Consumer) -> None:
        """Leave the queues as they are; Celery closes them."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    shutdown = stop

    def hold(self, queue: str) -> None:
        """Do not consume the queue until it is released."""
        self._held.add(queue)
        self._cancel(queue)

    def release(self, queue: str) -> None:
        """Consume the queue again, if its stream still is to flow."""
        self._held.discard(queue)
        if self._timer is not None and queue in self._wanted:
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
        for queue in sorted(self._wanted - self._consumed - self._held):
            logger.info("consuming %s", queue)
            add(queue)
        for queue in sorted(self._consumed - self._wanted):
            logger.info("not consuming %s any more", queue)
            self._cancel(queue)

    def _find_wanted(self) -> set[str]:
        state = self._consumer.app.state
        closed = state.gates.closed()
        streams = [s for s in state.registry.snapshot().streams if s.region in environment().regions]
        queues: set[str] = {stream.queue for stream in streams} - closed.keys()
        return queues if self._only is None else queues & self._only

    def _add(self, name: str, at_once: bool = True) -> None:
        """Have the worker consume a queue; if not at once, when its loop begins.

        Nobody handles messages before. RabbitMQ would deliver them all the same.
        """
        if name in self._consumed:
            return
        self._consumed.add(name)
        queues, tasks = self._consumer.app.amqp.queues, self._consumer.task_consumer
        selected = queues.select_add(queues[name])
        declared = self._declared[name] = tasks.add_queue(self._declared.get(name, selected))
        # Declaring asks the broker thrice, and a held queue is added again many times a second.
        declared.no_declare = True
        if at_once:
            tasks.consume()

    def _cancel(self, name: str) -> None:
        # Whoever consumes it: somebody may have told Celery to.
        self._consumed.discard(name)
        self._consumer.app.amqp.queues.deselect(name)
        self._consumer.task_consumer.cancel_by_queue(name)

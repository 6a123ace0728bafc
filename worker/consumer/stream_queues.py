"""Boot step: reconciles the streams' queues that this worker consumes with those that it should consume.

It should consume the queue of each registered stream whose circuit breaker lets a batch through, narrowed by
`AUDIENCE_REGIONS` and `-Q`. New streams, removed ones, pauses and outages are all handled by this comparison,
once a second. The batches of other streams wait in the broker, not in a worker.

In between, flow control pauses the queue of a stream that must wait for a moment.
"""

import logging
import time
from collections.abc import Callable, Collection
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any

from celery import bootsteps
from celery.worker.consumer import Consumer
from kombu import Queue
from redis.exceptions import RedisError

from worker.broker.redis.channel import Channel
from worker.config import current_settings
from worker.consumer.stream_states import StreamStates
from worker.consumer.troubles.state_trouble import StateTrouble
from worker.queues import is_stream_queue
from worker.state.registry import Snapshot
from worker.upstream import consume_queue, known_request_ids, selected_queues

RECONCILE_INTERVAL_SECONDS = 1.0
"""A new stream must be consumed within five seconds, a resumed one within two."""
REDECLARE_SECONDS = 60.0
"""Until a queue that could not be declared is tried again: each attempt costs the worker its connection."""

logger = logging.getLogger(__name__)


class StreamQueues(bootsteps.StartStopStep):  # type: ignore[misc]
    """Starts and stops consuming streams' queues on a running worker."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(
        self, consumer: Consumer, monotonic: Callable[[], float] = time.monotonic, **options: Any
    ) -> None:
        super().__init__(consumer, **options)
        self._monotonic = monotonic
        self._only = selected_queues(consumer.app)
        self._snapshot: Snapshot | None = None
        self._connected: AbstractSet[str] = frozenset()
        """The queues of the snapshot's streams that this worker may consume."""
        self._blocked: set[str] = set()
        """Queues whose circuit breaker lets no batch through."""
        self._wanted = {queue for queue in self._only or () if is_stream_queue(queue)}
        self._consumed = set(self._wanted)
        self._paused: set[str] = set()
        self._declared: dict[str, Queue] = {}
        self._refused_until: dict[str, float] = {}
        """In the clock's seconds."""
        self._timers: list[Any] = []
        self._states = StreamStates()
        self._state_trouble = StateTrouble(consumer.app.services.alerts, monotonic)
        self._consumer = consumer
        consumer.stream_queues = self

    def start(self, consumer: Consumer) -> None:
        """Reconcile now and at each interval. Celery also calls this after it has reconnected."""
        self._declared.clear()
        self._paused.clear()
        consumer.flow_control.reconnected(known_request_ids())
        if isinstance(channel := consumer.task_consumer.channel, Channel):
            channel.limit_deliveries(consumer.flow_control.delivery_limit)
        self._reconcile(partial(self._add, at_once=False))
        again = consumer.timer.call_repeatedly(RECONCILE_INTERVAL_SECONDS, self._reconcile, (self._add,))
        self._timers.append(again)

    def stop(self, consumer: Consumer) -> None:
        """Reconcile no more. Celery itself stops consuming."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    shutdown = stop

    @property
    def wanted(self) -> Collection[str]:
        """The streams' queues that this worker is to consume, the paused ones included."""
        return self._wanted

    def pause(self, queue: str) -> None:
        """Stop consuming the queue until it is resumed."""
        self._paused.add(queue)
        self._cancel(queue)

    def resume(self, queue: str) -> None:
        """Consume the queue again, if its stream may still flow."""
        self._paused.discard(queue)
        if self._timers and queue in self._wanted:
            self._add(queue)

    def _reconcile(self, add: Any) -> None:
        services = self._consumer.app.services
        try:
            snapshot, breakers = services.registry.snapshot(), services.circuit_breakers.all()
        except RedisError as error:
            # The tasks need Redis, too, and requeue their messages until it is back.
            logger.warning(
                "cannot read the registry, keeping the queues as they are: %s", type(error).__name__
            )
            self._state_trouble.begin(error)
            return
        self._state_trouble.end()
        now = services.clock()
        self._choose(snapshot, {queue for queue, breaker in breakers.items() if breaker.is_blocking(now)})
        self._end_refusals()
        self._forget_cancelled()
        missing = self._wanted - self._consumed
        for queue in sorted(missing - self._paused - self._refused_until.keys()):
            logger.debug("consuming %s", queue)
            add(queue)
        for queue in sorted(self._consumed - self._wanted):
            logger.debug("not consuming %s any more", queue)
            self._cancel(queue)
        self._states.update(self._connected, breakers)

    def _choose(self, snapshot: Snapshot, blocked: set[str]) -> None:
        """Compute the wanted queues where the registry or a circuit breaker is another than the last time."""
        if snapshot is self._snapshot and blocked == self._blocked:
            return
        if snapshot is not self._snapshot:
            self._connected = self._queues_of(snapshot)
        self._snapshot, self._blocked = snapshot, blocked
        self._wanted = set(self._connected - blocked)
        # Declare a queue again once its stream flows: somebody may delete or fix it meanwhile.
        for queue in self._declared.keys() - self._wanted:
            del self._declared[queue]

    def _queues_of(self, snapshot: Snapshot) -> AbstractSet[str]:
        """The queues that this worker may consume."""
        regions = current_settings().regions
        queues = frozenset(stream.queue for stream in snapshot.streams if stream.region in regions)
        return queues if self._only is None else queues & self._only

    def _end_refusals(self) -> None:
        """Forget which queues could not be declared, where they are to be tried again."""
        now = self._monotonic()
        self._refused_until = {
            queue: until
            for queue, until in self._refused_until.items()
            if queue in self._wanted and now < until
        }

    def _forget_cancelled(self) -> None:
        """Have a queue consumed again that `cancel_consumer` took away: `pause` is what stops a stream."""
        self._consumed.intersection_update(self._consumer.app.amqp.queues.consume_from)

    def _add(self, name: str, at_once: bool = True) -> None:
        """Consume a queue: at once, or when the worker's loop begins.

        Before the loop begins nobody handles messages, and RabbitMQ would deliver them all the same.
        """
        if name in self._consumed or name in self._refused_until:
            return
        try:
            self._consume(name, at_once)
        except self._consumer.channel_errors as error:
            self._reconnect(name, error)

    def _consume(self, name: str, at_once: bool) -> None:
        queues, tasks = self._consumer.app.amqp.queues, self._consumer.task_consumer
        declared = tasks.add_queue(self._declared.get(name, queues[name]))
        if at_once:
            consume_queue(tasks, declared)
        # Declaring costs three calls of the broker, and a paused queue is resumed many times a second.
        declared.no_declare = True
        self._declared[name] = declared
        # RabbitMQ's answer may come behind messages for which flow control has paused the queue again.
        if name in self._paused:
            return
        # Celery consumes these by itself after it has reconnected.
        queues.select_add(queues[name])
        self._consumed.add(name)

    def _reconnect(self, name: str, error: Exception) -> None:
        """Connect to the broker again: over this queue it has closed the channel, with all its consumers.

        A queue that somebody has deleted since it was declared is declared again on the new connection.
        """
        logger.error("cannot consume %s: %s", name, error)
        self._consumer.app.amqp.queues.pop(name, None)
        if self._declared.pop(name, None) is None:
            self._refused_until[name] = self._monotonic() + REDECLARE_SECONDS
        # Celery connects again where its loop meets the error; the caller of this may swallow it.
        self._timers.append(self._consumer.timer.call_after(0, _lose_connection))

    def _cancel(self, name: str) -> None:
        # Also where a remote control command, and not this step, has made Celery consume it.
        self._consumed.discard(name)
        self._consumer.app.amqp.queues.deselect(name)
        self._consumer.app.amqp.queues.pop(name, None)
        self._consumer.task_consumer.cancel_by_queue(name)


def _lose_connection() -> None:
    raise ConnectionError("the broker has closed the channel")

"""Admits a stream's messages to this worker's pool, one at a time; the others wait in the broker.

A message that is not admitted is requeued, and this worker stops consuming its stream's queue until there is
a point in trying again. So neither an OPEN circuit breaker, nor a spent quota, nor a rate limit fills a
worker with messages that nobody else can have.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from kombu.message import Message

from worker.broker.messages import TaskCall, queue_of
from worker.broker.redis.delivery_runs import DeliveryLimit
from worker.failures.alert_types import Failure
from worker.flow.concurrency import ConcurrencyLimits, ProbeLimit
from worker.flow.delays import delay_until_due, renew_often_delivered
from worker.flow.prefetched import PrefetchedMessages
from worker.flow.rate_limits import RateLimits
from worker.flow.shared_limits import SharedLimits, requests_of
from worker.flow.worker_troubles import WorkerTroubles
from worker.queues import is_stream_queue, stream_of


class Request(Protocol):
    """A message that Celery hands to the pool."""

    id: str
    delivery_info: Mapping[str, Any] | None
    has_succeeded: bool
    worker_trouble: Failure | None
    """Why this worker could not deliver the message, where it could not."""


class FlowControl:
    """Backpressure between a worker's queues and its pool, made of the parts that are passed in."""

    def __init__(
        self,
        *,
        concurrency: ConcurrencyLimits,
        probes: ProbeLimit,
        rate_limits: RateLimits,
        shared_limits: SharedLimits,
        worker_troubles: WorkerTroubles,
        prefetched: PrefetchedMessages | None,
        clock: Callable[[], float],
    ) -> None:
        """`prefetched` where the broker sends messages ahead."""
        self._concurrency = concurrency
        self._probes = probes
        self._rate_limits = rate_limits
        self._shared_limits = shared_limits
        self._worker_troubles = worker_troubles
        self._prefetched = prefetched
        self._clock = clock

    def admit(self, message: Message, call: TaskCall, again: Callable[[], object]) -> bool:
        """Admit a message to the pool, or else delay it until its ETA, or requeue it.

        True: it is admitted. A message of no stream always is, once it is due. A message that the broker has
        sent ahead waits for room in the pool; `again`, which is to call this again, is called then.
        """
        if delay_until_due(message, self._clock) or renew_often_delivered(message, self._clock):
            return False
        queue = queue_of(message)
        if not is_stream_queue(queue):
            return True
        if self._prefetched is not None and not self._prefetched.has_room(queue):
            self._prefetched.add(queue, again)
            return False
        if self._acquire(queue, call):
            self._rate_limits.message_is_admitted(queue, call.task, requests_of(call))
            return True
        message.requeue()
        return False

    def delivery_limit(self, queue: str) -> DeliveryLimit:
        """How much a run of a stream's deliveries may hold."""
        limit = self._shared_limits.delivery_limit(queue)
        return limit._replace(calls=self._rate_limits.tokens_left(stream_of(queue).task, limit.calls))

    def message_enters(self, request: Request) -> None:
        """Count an admitted message among its stream's, until it ends."""
        queue = queue_of(request)
        # Requests of Celery's own tasks do not report their end, and anybody can call those.
        if is_stream_queue(queue) and hasattr(request, "on_end"):
            request.on_end = self._message_ends
            self._concurrency.message_enters(queue, request.id)

    def rate_limits_changed(self) -> None:
        """Celery has made its token buckets anew: at the start, or for the `rate_limit` command."""
        self._rate_limits.buckets_changed()

    def reconnected(self, message_ids: Collection[str]) -> None:
        """The broker was lost: Celery has dropped, without an end, all messages but these."""
        self._concurrency.retain(message_ids)
        self._probes.retain(message_ids)
        if self._prefetched is not None:
            self._prefetched.clear()

    def _acquire(self, queue: str, call: TaskCall) -> bool:
        """The limits in the order of their cost: the last one asks Redis and spends quota."""
        if not self._concurrency.check(queue):
            # It was reserved before its queue was paused.
            self._concurrency.pause(queue)
            return False
        has_token = self._rate_limits.try_acquire(queue, call.task, requests_of(call))
        return has_token and self._shared_limits.try_acquire(queue, call)

    def _message_ends(self, request: Request) -> None:
        queue = queue_of(request)
        self._probes.discard(request.id)
        if request.worker_trouble is not None:
            self._worker_troubles.begin(queue, request.worker_trouble)
        elif request.has_succeeded:
            self._worker_troubles.end(queue)
        self._concurrency.message_ends(queue, request.id)
        if self._prefetched is not None:
            self._prefetched.message_ends()

"""The limits that all workers share: a stream's circuit breaker and its quota."""

import logging
import random
from collections import Counter
from collections.abc import Callable
from math import isinf

from redis.exceptions import RedisError

from schemas.quotas import Quota
from worker.broker.messages import TaskCall
from worker.broker.redis.bodies import BODY_TAG
from worker.broker.redis.delivery_runs import CALLS, CALLS_OF_A_RUN, NO_RUN, DeliveryLimit
from worker.broker.runs import RUN_BYTES
from worker.firehose.batching import BATCHES_A_SECOND
from worker.firehose.groups import size_of
from worker.flow.admission import Admission, Cost, Decision
from worker.flow.circuit_breakers import CircuitBreakers
from worker.flow.concurrency import ProbeLimit
from worker.flow.queue_pauses import QueuePauses
from worker.queues import BYTES_HEADER, RECORDS_HEADER, Stream, stream_of

CIRCUIT_BREAKER_OR_QUOTA = "circuit breaker or quota"
"""The reason for which a queue is paused when its stream may not take a batch now."""
LONGEST_PAUSE_SECONDS = 1.0
"""A breaker may be closed and a quota be raised at any moment, so each is looked at this often."""
SHORTEST_PAUSE_SECONDS = 0.01
"""A queue is not paused for less: reserving a message takes as long."""
JITTER_DOUBLINGS = 7
"""The contention jitter doubles so often; it is longer than the longest pause then."""
NEWLY_FAILING_SECONDS = 60.0
"""For so long after its first failure a stream may be probed beyond the limit of probes."""

logger = logging.getLogger(__name__)


class SharedLimits:
    """Acquires quota for a message, or pauses its queue until there is a point in trying again."""

    def __init__(
        self,
        *,
        admission: Admission,
        circuit_breakers: CircuitBreakers,
        quota: Callable[[Stream], Quota],
        probes: ProbeLimit,
        pauses: QueuePauses,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`quota` looks up a stream's quota."""
        self._admission = admission
        self._circuit_breakers = circuit_breakers
        self._quota = quota
        self._probes = probes
        self._pauses = pauses
        self._jitter = jitter
        self._denials: Counter[str] = Counter()
        """By queue, how often in a row a message of it was not admitted."""
        self._not_closed: set[str] = set()
        """Queues of streams whose breaker was not CLOSED when it was last asked for."""

    def delivery_limit(self, queue: str) -> DeliveryLimit:
        """How much a run of a stream's deliveries may hold: a tenth of a second's quota, as a batch.

        A probe is one batch, so there are no runs unless the stream's breaker is known to be CLOSED. A poll
        asks for this, and an error would end the broker's connection: without Redis there are no runs either.
        """
        if queue in self._not_closed:
            return NO_RUN
        try:
            quota = self._quota(stream_of(queue))
        except RedisError:
            return NO_RUN
        return DeliveryLimit(
            calls=min(max(quota.requests // BATCHES_A_SECOND, 1), CALLS_OF_A_RUN),
            records=quota.records // BATCHES_A_SECOND,
            bytes=min(quota.bytes // BATCHES_A_SECOND, RUN_BYTES),
        )

    def try_acquire(self, queue: str, call: TaskCall) -> bool:
        """Whether the message may be sent now. If so, its records count as sent."""
        decision = self._acquire(queue, call)
        if decision.is_closed:
            self._not_closed.discard(queue)
        else:
            self._not_closed.add(queue)
        if decision.admitted:
            self._denials.pop(queue, None)
            if decision.is_probe:
                self._probes.add(call.id)
            if decision.wait > SHORTEST_PAUSE_SECONDS:
                self._pause_for(queue, decision.wait)
        else:
            self._pause_for(queue, decision.wait + self._contention_jitter(queue))
        return decision.admitted

    def _acquire(self, queue: str, call: TaskCall) -> Decision:
        try:
            return self._acquire_within_probe_limit(queue, call)
        except RedisError as error:
            logger.warning("%s: cannot ask Redis whether %s may flow", type(error).__name__, queue)
            return Decision(admitted=False, wait=LONGEST_PAUSE_SECONDS)

    def _acquire_within_probe_limit(self, queue: str, call: TaskCall) -> Decision:
        stream = stream_of(queue)
        if CALLS in call.kwargs:
            return self._acquire_for_run(stream, call)

        def acquire(*, may_probe: bool) -> Decision:
            return self._admission.acquire(
                stream, cost_of(call), self._quota(stream), may_probe=may_probe, message_id=call.id
            )

        may_probe = self._probes.check()
        decision = acquire(may_probe=may_probe)
        may_be_newly_failing = isinf(decision.wait) and not may_probe and self._probes.check_newly_failing()
        if may_be_newly_failing and self._circuit_breakers.seconds_failing(stream) < NEWLY_FAILING_SECONDS:
            return acquire(may_probe=True)
        return decision

    def _acquire_for_run(self, stream: Stream, call: TaskCall) -> Decision:
        """Acquire quota for a run, which is no probe: its messages may be, one by one, right after it."""
        decision = self._admission.acquire(
            stream, cost_of(call), self._quota(stream), may_probe=False, message_id=call.id
        )
        return decision._replace(wait=0) if isinf(decision.wait) else decision

    def _contention_jitter(self, queue: str) -> float:
        """Seconds to add to a pause. The worker that was admitted wakes as soon as quota is left again;
        without jitter the others would wake with it, each time in vain."""
        self._denials[queue] += 1
        return self._jitter(0, SHORTEST_PAUSE_SECONDS * 2 ** min(self._denials[queue], JITTER_DOUBLINGS))

    def _pause_for(self, queue: str, seconds: float) -> None:
        self._pauses.pause_for(queue, CIRCUIT_BREAKER_OR_QUOTA, min(seconds, LONGEST_PAUSE_SECONDS))


def requests_of(call: TaskCall) -> int:
    """How many calls of Firehose a delivery makes, or a run of deliveries; at least one."""
    calls = call.kwargs.get(CALLS)
    return max(len(calls), 1) if isinstance(calls, list) else 1


def cost_of(call: TaskCall) -> Cost:
    """The share of a quota that a delivery's records take. A call that is no delivery costs one request,
    and its task dead-letters it."""
    if CALLS in call.kwargs or BODY_TAG in call.kwargs:
        records, size = (call.fields.get(name) for name in (RECORDS_HEADER, BYTES_HEADER))
        if type(records) is int and type(size) is int and records > 0 and size >= 0:
            return Cost(records, size, requests_of(call))
    try:
        return Cost(*size_of(call.kwargs["records"]))
    except (KeyError, TypeError, ValueError):
        return Cost(1, 0)

"""A run of a stream's deliveries: batches of several messages, with as few calls of Firehose as can be.

A call takes the batches of several messages. Each of these keeps its idempotency record, and ends as it would
alone: delivered, or handed over to a retry of its own. Whatever is not plain is requeued and run alone: a
retry, a batch that others follow, a malformed message, one that another worker has as well or that the call
holds twice. So are the messages of a call that Firehose has refused for good: what is wrong may be wrong with
one of them.
"""

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from celery.app.task import Context
from celery.exceptions import Ignore, Reject, Retry
from redis.exceptions import RedisError

from tasks.attempts import Attempt, seconds_since_enqueued
from tasks.base import INFRASTRUCTURE_ERRORS, DeadLettered
from worker.broker.messages import TaskCall, encoded_call, load_envelope
from worker.broker.redis.reservations import Deliveries
from worker.consumer.validation import is_valid
from worker.errors import PermanentError, TransientError, WorkerTroubleError
from worker.failures.alert_types import Failure
from worker.firehose.deliveries import is_delivery
from worker.firehose.groups import Group, records_in
from worker.firehose.put import Billing, Outcome
from worker.logs.fields import log_fields
from worker.queues import Stream
from worker.retry_policy import REQUEUE_PAUSE_SECONDS
from worker.state.idempotency import IdempotencyState

if TYPE_CHECKING:
    from tasks.deliver import DeliveryTask

RUN_SECONDS = 1.0
"""A run makes no further call after so long: other processes may deliver the rest meanwhile."""

logger = logging.getLogger(__name__)


class Delivery(NamedTuple):
    """A delivery message that a run can deliver."""

    tag: str
    """Its delivery tag."""
    call: TaskCall
    properties: dict[str, Any]

    @property
    def groups(self) -> list[Group]:
        """Its batch."""
        groups: list[Group] = self.call.kwargs["records"]
        return groups


class Summary(NamedTuple):
    """The numbers that Flower shows of a run."""

    messages: int = 0
    """That it delivered."""
    records: int = 0
    calls: int = 0


class DeliveryRun:
    """Delivers the messages of a run, call by call, until one is not taken whole."""

    def __init__(self, task: "DeliveryTask", stream: Stream, reserved: Deliveries) -> None:
        self._task = task
        self._stream = stream
        self._reserved = reserved
        self._services = task.app.services
        self._owner_token: str = task.request.id
        """The run's ID, by which the main process releases the leases of a process that was lost."""
        self._leased: set[str] = set()
        """IDs of the messages whose leases the run has."""
        self._delivered: list[str] = []
        """Delivery tags of the messages that Firehose has taken whole, until the broker forgets them."""

    def deliver(self, calls: Sequence[Sequence[str]]) -> Summary:
        """Deliver the messages, given as delivery tags by call; requeue those that are left."""
        ends_at = self._services.monotonic() + RUN_SECONDS
        total = Summary()
        try:
            waiting = deque(self._acquire(self._read(calls)))
            while waiting:
                deliveries = waiting.popleft()
                accepted = self._deliver_call(deliveries)
                if accepted is None:
                    break
                total = Summary(total.messages + len(deliveries), total.records + accepted, total.calls + 1)
                if waiting and not self._may_go_on(ends_at):
                    break
            self._requeue([*chain.from_iterable(waiting)])
        finally:
            self._release(self._leased)
            self._reserved.end(self._delivered)
        return total

    def _may_go_on(self, ends_at: float) -> bool:
        """Whether there is time for one more call, and the stream's circuit breaker is CLOSED."""
        return (
            self._services.monotonic() < ends_at and self._services.circuit_breakers.get(self._stream) is None
        )

    def _deliver_call(self, deliveries: list[Delivery]) -> int | None:
        """Make a call with these messages. Returns how many records it had; None if not all were taken."""
        if self._stream in self._task.app.put_record_only:
            self._requeue(deliveries, alone=True)
            return None
        try:
            configuration = self._task.begin_call(self._stream)
            outcomes = self._task.calls.put_together(
                configuration, self._stream, [each.groups for each in deliveries]
            )
        except TransientError as error:
            self._settle_failed(deliveries, error.failure)
            return None
        except WorkerTroubleError as trouble:
            self._log_trouble(trouble, deliveries)
            # The main process requeues what is left of the run, and pauses the streams that this concerns.
            raise Reject(trouble, requeue=True) from None
        except PermanentError:
            self._requeue(deliveries, alone=True)
            return None
        if any(outcome.failure for outcome in outcomes):
            self._settle(deliveries, outcomes)
            return None
        self._complete(deliveries, outcomes)
        return sum(outcome.accepted for outcome in outcomes)

    def _read(self, calls: Sequence[Sequence[str]]) -> list[list[Delivery]]:
        """The deliveries of each call. Requeues the messages that a run does not deliver."""
        texts = self._reserved.read([*chain.from_iterable(calls)])
        found: dict[str, Delivery] = {}
        """By ID: a message that was sent twice would find the lease to be the run's own."""
        alone = []
        read = []
        for call in calls:
            deliveries = []
            for tag in call:
                if (text := texts.pop(tag, None)) is None:
                    continue
                delivery = self._read_one(tag, text)
                if delivery is None or found.setdefault(delivery.call.id, delivery) is not delivery:
                    alone.append(tag)
                else:
                    deliveries.append(delivery)
            read.append(deliveries)
        self._reserved.requeue(alone, alone=True)
        return read

    def _read_one(self, tag: str, text: bytes) -> Delivery | None:
        """The delivery in a message; None where it is not one that a run delivers."""
        try:
            envelope = load_envelope(text)
        except orjson.JSONDecodeError:
            return None
        found = encoded_call(envelope)
        call = found.decode() if found and found.is_plain and is_valid(found.fields) else None
        if call is None:
            return None
        is_of_stream = call.task == self._task.name and is_delivery(call.kwargs) and not call.args
        if not is_of_stream or "then" in call.kwargs or self._task.stream_of(call.kwargs) != self._stream:
            return None
        return Delivery(tag, call, envelope["properties"])

    def _acquire(self, calls: list[list[Delivery]]) -> list[list[Delivery]]:
        """Acquire the leases of all calls. Ends what is delivered already, and requeues what another worker
        has. Returns the calls that are left, each with the messages that are."""
        deliveries = [*chain.from_iterable(calls)]
        if not deliveries:
            return []
        ids = [each.call.id for each in deliveries]
        self._leased.update(ids)
        states = self._services.idempotency.acquire_all(ids, 0, self._owner_token)
        by_state: dict[IdempotencyState, list[Delivery]] = {state: [] for state in IdempotencyState}
        for delivery, state in zip(deliveries, states, strict=True):
            by_state[state].append(delivery)
        self._reserved.end([each.tag for each in by_state[IdempotencyState.COMPLETED]])
        others = by_state[IdempotencyState.IN_PROGRESS] + by_state[IdempotencyState.HANDED_OVER]
        if by_state[IdempotencyState.IN_PROGRESS]:
            self._services.sleep(REQUEUE_PAUSE_SECONDS)
        self._reserved.requeue([each.tag for each in others], alone=True)
        acquired = {each.tag for each in by_state[IdempotencyState.ACQUIRED]}
        left = ([each for each in call if each.tag in acquired] for call in calls)
        return [call for call in left if call]

    def _complete(self, deliveries: Sequence[Delivery], outcomes: Sequence[Outcome]) -> None:
        """Record a call that Firehose has taken whole. The broker forgets its messages when the run ends."""
        ids = [each.call.id for each in deliveries]
        attempt = Attempt(
            self._stream,
            self._owner_token,
            accepted=sum(each.accepted for each in outcomes),
            size=sum(each.size for each in outcomes),
            seconds=seconds_since_enqueued((each.call.fields for each in deliveries), self._services.clock()),
            billing=Billing(*map(sum, zip(*(each.billing for each in outcomes), strict=True))),
        )
        self._task.record_counters(partial(self._task.attempt_recorder.record, attempt), ids)
        self._leased.difference_update(ids)
        self._delivered += [each.tag for each in deliveries]

    def _settle_failed(self, deliveries: Sequence[Delivery], failure: Failure) -> None:
        """End the messages of a call that failed as a whole: each is retried."""

        def fail(groups: list[Group]) -> Outcome:
            raise TransientError(failure, refused=records_in(groups))

        in_a_row = self._report_failure(failure)
        for each in deliveries:
            self._settle_one(each, partial(fail, each.groups), in_a_row)

    def _settle(self, deliveries: Sequence[Delivery], outcomes: Sequence[Outcome]) -> None:
        """End the messages of a call of which Firehose has refused records: each as its own task would."""
        failure = next(outcome.failure for outcome in outcomes if outcome.failure)
        accepted = sum(outcome.accepted for outcome in outcomes)
        refused = sum(outcome.refused for outcome in outcomes)
        in_a_row = 0
        if refused > accepted:
            in_a_row = self._report_failure(failure)
        else:
            self._task.breaker_reports.report_success(self._stream)
        for each, outcome in zip(deliveries, outcomes, strict=True):
            self._settle_one(each, partial(_give, outcome), in_a_row)

    def _report_failure(self, failure: Failure) -> int:
        """Open the stream's circuit breaker. Returns how often it has failed in a row."""
        return self._task.breaker_reports.report_failure(self._stream, failure, self._owner_token)

    def _settle_one(
        self, delivery: Delivery, attempted: Callable[[], Outcome], failures_in_a_row: int
    ) -> None:
        """Have the task go on with a message whose attempt was made."""
        with self._requesting(delivery, attempted, failures_in_a_row):
            try:
                self._task.run_or_dead_letter((), delivery.call.kwargs)
            except (Reject, *INFRASTRUCTURE_ERRORS):
                self._requeue([delivery], alone=True)
                return
            except (Retry, DeadLettered, Ignore):
                pass
        self._leased.remove(delivery.call.id)
        self._reserved.end([delivery.tag])

    def _log_trouble(self, trouble: WorkerTroubleError, deliveries: Sequence[Delivery]) -> None:
        fields = log_fields(
            stream=self._stream.queue,
            task_id=self._task.request.id,
            records=sum(records_in(each.groups) for each in deliveries),
            aws_request_id=trouble.failure.request_id,
        )
        logger.warning("worker trouble: %s", trouble, extra=fields)

    @contextmanager
    def _requesting(
        self, delivery: Delivery, attempted: Callable[[], Outcome], failures_in_a_row: int
    ) -> Iterator[None]:
        """Have the task's request be that of one message."""
        run = self._task.request
        request = Context(
            {
                **delivery.call.fields,
                "properties": delivery.properties,
                "delivery_info": run.delivery_info,
                "hostname": run.hostname,
            },
            args=(),
            kwargs=delivery.call.kwargs,
            called_directly=False,
        )
        # Afterwards: a retry has the headers that the request was made of.
        request.update(
            failures_in_a_row=failures_in_a_row,
            put_at=run.put_at,
            has_called_firehose=True,
            owner_token=self._owner_token,
            attempted=attempted,
        )
        self._task.request_stack.push(request)
        try:
            yield
        finally:
            self._task.request_stack.pop()

    def _requeue(self, deliveries: Sequence[Delivery], *, alone: bool = False) -> None:
        """Requeue messages of the run; `alone`: so that no run will hold one."""
        # Whoever reserves one next would wait for its lease.
        self._release([each.call.id for each in deliveries])
        self._reserved.requeue([each.tag for each in deliveries], alone=alone)

    def _release(self, ids: Collection[str]) -> None:
        """Release the leases of messages that were not ended."""
        with suppress(RedisError):
            self._services.idempotency.release_all(ids, 0, self._owner_token)
            self._leased.difference_update(ids)


def _give(outcome: Outcome) -> Outcome:
    return outcome

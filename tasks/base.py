"""The base of all tasks: their arguments are not shown, and no message is lost where one fails."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celery import Task
from celery.exceptions import Ignore, Reject, Retry
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError

from worker.broker.messages import TaskCall
from worker.broker.redis.bodies import is_body_left, read_body
from worker.failures import alerts
from worker.failures.dead_lettering import Undeliverable
from worker.logs.fields import log_fields
from worker.retry_policy import REQUEUE_PAUSE_SECONDS
from worker.state.idempotency import HANDED_OVER_PREFIX, IdempotencyState
from worker.store.atomic import is_out_of_memory

if TYPE_CHECKING:
    from worker.celery import AudienceFirehose

INFRASTRUCTURE_ERRORS = (RedisError, OperationalError)
"""Redis or the broker is away. The message is requeued after a pause."""
RECORDING_SECONDS = 30.0
"""For which a task tries to record counters: in that time a Redis restarts. A try may take five."""

logger = logging.getLogger(__name__)


class DeadLettered(Exception):
    """A message became a dead letter. The end of its task, as Flower shows it."""


@contextmanager
def tolerating_redis_errors() -> Iterator[None]:
    """Log errors of Redis in the block, after records have moved: a retry would move them again."""
    try:
        yield
    except RedisError as error:
        logger.warning("%s: the records moved, but no alert was raised", type(error).__name__)


class ForwarderTask(Task):  # type: ignore[misc]
    """A task whose message ends as done, as a retry, back in the broker, or as a dead letter."""

    abstract = True
    Request = "worker.consumer.request:RedactingRequest"
    empties_redis = False
    """Whether a full Redis must take its writes. A task that adds messages is refused."""
    throws = (DeadLettered,)
    if TYPE_CHECKING:
        app: AudienceFirehose

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task. The worker calls this; Celery's autoretry is inside `run`."""
        with self.requeueing_on_errors():
            if is_body_left(kwargs, tag := (self.request.properties or {}).get("delivery_tag")):
                call = self._read_body(str(tag))
                if call is None:
                    # It was requeued, and is another reservation's.
                    return None
                args, kwargs = tuple(call.args), call.kwargs
                self.request.update(args=args, kwargs=kwargs)
            return self.run_or_dead_letter(args, kwargs)

    @contextmanager
    def requeueing_on_errors(self) -> Iterator[None]:
        """Requeue the message after a pause where its task could neither end it nor store a dead letter."""
        try:
            yield
        except (DeadLettered, Retry, Ignore, Reject):
            raise
        except Exception as error:
            # Redis or the broker is away; or, which nothing should be, a defect in dead-lettering.
            logger.warning("%s: the message is requeued", type(error).__name__)
            self.app.services.sleep(REQUEUE_PAUSE_SECONDS)
            self._release()
            raise Reject(type(error).__name__, requeue=True) from None

    def _read_body(self, tag: str) -> TaskCall | None:
        with self.app.producer_or_acquire() as producer:
            return read_body(producer.channel, tag)

    def undeliverable(self, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Undeliverable:
        """The part of a call that failed for good and was not delivered."""
        raise NotImplementedError

    def dead_letter(self, undeliverable: Undeliverable) -> None:
        """Store the undelivered part of this message as a dead letter, and raise its alert."""
        cause = alerts.Cause(self.name, self.request.id, getattr(self.request, "origin", None))
        self.app.services.dead_lettering.dead_letter(
            replace(undeliverable, cause=cause), even_if_full=self.empties_redis
        )
        failure = undeliverable.failure
        logger.warning(
            "dead letter %s: %s (%s)",
            undeliverable.id,
            failure.alert_type,
            failure.error_code,
            extra=log_fields(
                stream=undeliverable.stream.queue if undeliverable.stream else None,
                connections=undeliverable.connection_ids,
                task_id=self.request.id,
                records=undeliverable.records,
                aws_request_id=failure.request_id,
            ),
        )

    def after_dead_lettering(self, undeliverable: Undeliverable, error: Exception) -> None:
        """Do what else follows from a dead letter. Called again if the message comes back."""

    def idempotency_key(self, message_id: str, kwargs: dict[str, Any]) -> str:
        """The key of a message's idempotency records."""
        return message_id

    @property
    def attempt(self) -> str:
        """`idempotency_key` of the message that is being run."""
        if not hasattr(self.request, "idempotency_key"):
            self.request.idempotency_key = self.idempotency_key(self.request.id, self.request.kwargs or {})
        return str(self.request.idempotency_key)

    @property
    def queue_consumed(self) -> str:
        """The queue that the message came from."""
        return (self.request.delivery_info or {}).get("routing_key") or ""

    def acquire(self) -> bool:
        """Acquire this attempt's lease, so that no other worker makes it. False: it is COMPLETED.

        Raises `Reject` while another copy of the message is IN_PROGRESS: that one may fail, so this one is
        requeued.
        """
        self.request.owner_token = uuid4().hex
        state = self.app.services.idempotency.acquire(
            self.attempt, self.request.retries, self.request.owner_token
        )
        if state is IdempotencyState.IN_PROGRESS:
            self.app.services.sleep(REQUEUE_PAUSE_SECONDS)
            raise Reject("another copy of the message is being run", requeue=True)
        return state is IdempotencyState.ACQUIRED or (
            state is IdempotencyState.HANDED_OVER and self._was_handover_lost()
        )

    def hand_over(self) -> None:
        """Have the broker note that the attempt's messages were sent; called after the last of them."""
        with tolerating_redis_errors():
            try:
                self.request.has_handed_over = self.app.handovers.mark(self._handover)
            except OperationalError as error:
                logger.warning("%s: the broker has no note of the messages sent", type(error).__name__)

    def handover_header(self) -> dict[str, Any]:
        """The header of the attempt's only message, by which the broker notes that it was sent."""
        return self.app.handovers.header(self._handover)

    def record_handover(self) -> None:
        """Have the idempotency record say that the message with that header was sent."""
        self.request.has_handed_over = self.app.handovers.are_needed

    @property
    def _handover(self) -> str:
        return f"{self.attempt}:{self.request.retries}"

    def _was_handover_lost(self) -> bool:
        if not self.app.handovers.is_lost(self._handover):
            return False
        logger.warning(
            "message %s is run again: the broker has lost what it was handed over to", self.request.id
        )
        self.request.repeats_handover = True
        return True

    def record_counters(self, record: Callable[[Redis], None], attempts: Sequence[str] = ()) -> None:
        """Record the counters of the attempt, or of `attempts`, with their records, atomically and once.

        The records have moved, and an error here must not move them again: the attempt to record is
        repeated until Redis is back, and the message is unacknowledged until then. If Redis is away for too
        long, what else was in flight in this process is not waited for as long again.
        """
        mark = uuid4().hex
        if getattr(self.request, "has_handed_over", False):
            mark = f"{HANDED_OVER_PREFIX}{mark}"
        # What was counted stays counted: the broker has lost messages, and the counters have not.
        counted = None if getattr(self.request, "repeats_handover", False) else record
        services = self.app.services
        ends_at = services.monotonic() + (0 if services.has_given_up_counters else RECORDING_SECONDS)
        while True:
            try:
                services.idempotency.complete_all(
                    attempts or [self.attempt],
                    self.request.retries,
                    counted,
                    mark=mark,
                    even_if_full=self.empties_redis,
                )
            except RedisError as error:
                if not self.empties_redis and is_out_of_memory(error):
                    # Nothing is recorded, and what was sent bears its IDs: the message may run again.
                    raise
                logger.warning("%s: the counters are recorded later", type(error).__name__)
                if services.monotonic() >= ends_at:
                    break
                services.sleep(REQUEUE_PAUSE_SECONDS)
            else:
                services.has_given_up_counters = False
                return
        services.has_given_up_counters = True
        logger.error("the records of message %s moved, but their counters did not", self.request.id)

    def _release(self) -> None:
        """Release the lease, so that a worker can run the message at once when it comes back."""
        if owner_token := getattr(self.request, "owner_token", None):
            with suppress(RedisError):
                self.app.services.idempotency.release(self.attempt, self.request.retries, owner_token)

    def run_or_dead_letter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the call; dead-letter it where it fails for good."""
        try:
            return self.run(*args, **kwargs)
        except (Retry, Ignore, Reject, *INFRASTRUCTURE_ERRORS):
            raise
        except Exception as error:
            undeliverable = self.undeliverable(error, args, kwargs)
            self.dead_letter(undeliverable)
            self.after_dead_lettering(undeliverable, error)
            failure = undeliverable.failure
            end = f"{failure.alert_type} ({failure.error_code}): dead letter {undeliverable.id}"
            raise DeadLettered(end) from None

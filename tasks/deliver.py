"""The delivery tasks, `audience.deliver.<region>`: each puts a batch into a Firehose stream."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

from botocore.exceptions import ClientError
from celery.exceptions import Reject, Retry, WorkerLostError
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError

from schemas.settings import Configuration
from tasks.base import INFRASTRUCTURE_ERRORS, ForwarderTask
from tasks.delivery_runs import DeliveryRun
from worker.broker.redis.bodies import cost_headers
from worker.broker.redis.delivery_runs import calls_of_run
from worker.broker.redis.reservations import find_deliveries
from worker.celery import app
from worker.errors import DeliveryError, PermanentError, TransientError, WorkerTroubleError
from worker.failures.alert_types import AlertType, Failure, Severity
from worker.failures.dead_lettering import Undeliverable
from worker.failures.dead_letters import Message
from worker.firehose.answers import MALFORMED_RESPONSE
from worker.firehose.deliveries import following_delivery, is_delivery, records_of
from worker.firehose.errors import (
    FIREHOSE_ERRORS,
    TRIED_AGAIN,
    Classification,
    Kind,
    classify,
    reclassify_expired,
)
from worker.firehose.groups import Group, records_in, size_of
from worker.firehose.health import reclassify_missing
from worker.firehose.put import Billing, Outcome, put, put_singly, put_together
from worker.firehose.regions import regions
from worker.logs.fields import log_fields
from worker.privacy import HIDDEN
from worker.queues import ENQUEUED_AT_HEADER, Stream, delivery_task, is_stream_queue, stream_of
from worker.retry_policy import REQUEUE_PAUSE_SECONDS, longest_open
from worker.state.installation import STATE_MISSING

logger = logging.getLogger(__name__)

WARN_AFTER_ATTEMPTS = 3
"""Failed attempts, of a batch or in a row, from which on a stream "keeps failing". A hiccup is no news."""
MALFORMED_ATTEMPTS = 5
"""Malformed answers to a batch after which it becomes a dead letter. Each may have stored its records."""
MALFORMED_ANSWERS = "malformed_answers"
"""The header that counts them in the message of a retry."""
ATTEMPTED = "attempted"
"""The attribute of a request whose batch was in a run's call: returns its outcome, or raises the error."""
PUT_RECORD_ONLY_SUBJECT = "put-record"
"""The subject of the warning's cooldown, with the stream's queue."""
PUT_RECORD_ONLY = (
    "the policy allows firehose:PutRecord and not firehose:PutRecordBatch: records are delivered one a call,"
    " which is slow; attach what `audience-firehose policy` prints"
)
Called = TypeVar("Called")
KINDS = {
    Kind.TRANSIENT: TransientError,
    Kind.PERMANENT: PermanentError,
    Kind.WORKER_TROUBLE: WorkerTroubleError,
}


class DeliveryTask(ForwarderTask):
    """Puts one batch. Celery retries it with the records that remain; a final failure dead-letters them."""

    abstract = True
    Request = "worker.consumer.request:RunRequest"
    empties_redis = True
    autoretry_for = (TransientError,)
    # Celery sets these three from `task_annotations` in celeryconfig.py, before it makes `run` retry.
    max_retries: int
    retry_backoff: int
    """Seconds."""
    retry_backoff_max: int
    """Seconds."""
    retry_jitter = True
    region: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task. If it ends without a call to Firehose, another batch may probe at once."""
        try:
            if calls := calls_of_run(kwargs, (self.request.properties or {}).get("delivery_tag")):
                with self.requeueing_on_errors():
                    return self._deliver_run(calls)
            return super().__call__(*args, **kwargs)
        finally:
            if not getattr(self.request, "has_called_firehose", False):
                self._leave_probing_to_another()

    def _deliver_run(self, calls: list[list[str]]) -> dict[str, int] | None:
        """Deliver the messages with these delivery tags; None where the broker has none of them."""
        deliveries = find_deliveries(self.app)
        if deliveries is None:
            return None
        run = DeliveryRun(self, stream_of(self.queue_consumed), deliveries)
        try:
            return run.deliver(calls)._asdict()
        except (Reject, *INFRASTRUCTURE_ERRORS):
            raise
        except Exception as error:
            logger.error("%s in a run: its messages are run one by one", type(error).__name__)
        deliveries.requeue([tag for call in calls for tag in call], alone=True)
        return None

    def run_attempted(self, kwargs: dict[str, Any]) -> None:
        """Go on with the message of the request, whose batch was in a call that a run has made."""
        self._run_or_dead_letter((), kwargs)

    def record_call(
        self,
        message_ids: Sequence[str],
        headers: Sequence[Mapping[str, Any]],
        stream: Stream,
        outcomes: Sequence[Outcome],
    ) -> None:
        """Record a run's call that Firehose has taken whole, as the first attempts of these messages."""
        enqueued_at = [at for each in headers if isinstance(at := each.get(ENQUEUED_AT_HEADER), int | float)]
        # The message that waited longest tells how long the call's records took.
        self.request.update({ENQUEUED_AT_HEADER: min(enqueued_at, default=None)})
        self.request.billing = Billing(*map(sum, zip(*(each.billing for each in outcomes), strict=True)))
        self._record_attempt(
            stream,
            accepted=sum(each.accepted for each in outcomes),
            size=sum(each.size for each in outcomes),
            attempts=message_ids,
        )

    def inform_breaker(self, stream: Stream, failure: Failure, *, is_failure: bool) -> None:
        """Inform the stream's circuit breaker of a run's call that Firehose has not taken whole."""
        if is_failure:
            self._open_circuit_breaker(stream, failure)
        else:
            with self.tolerating_redis_errors():
                self.app.services.circuit_breakers.record_success(stream, self.app.services.redis)

    def deliver(self, stream: Stream, groups: list[Group]) -> None:
        """Put the groups, unless this attempt was completed before.

        The worker acquired admission when it reserved the message from the stream's queue.
        """
        if self.queue_consumed != stream.queue and self.app.services.circuit_breakers.get(stream):
            self.app.services.sleep(REQUEUE_PAUSE_SECONDS)
            raise Reject("the stream's circuit breaker is open", requeue=True)
        attempted: Callable[[], Outcome] | None = getattr(self.request, ATTEMPTED, None)
        if attempted is None and not self.acquire():
            return
        try:
            outcome = attempted() if attempted else self._put(stream, groups)
        except TransientError as error:
            self._open_circuit_breaker(stream, error.failure)
            raise
        except WorkerTroubleError as trouble:
            if self._is_probe_that_met_again(stream, trouble.failure):
                self._open_circuit_breaker(stream, trouble.failure)
            self._leave_to_other_workers(trouble)
        except PermanentError as error:
            if self._is_probe_that_met_again(stream, error.failure):
                self._pause_again(stream, error.failure)
            raise
        self.request.billing = outcome.billing
        if outcome.failure:
            if outcome.is_mostly_refused:
                self._open_circuit_breaker(stream, outcome.failure)
            raise TransientError(
                outcome.failure, outcome.remaining, accepted=outcome.accepted, refused=outcome.refused
            )
        self._enqueue_following(stream)
        self._record_attempt(stream, accepted=outcome.accepted, size=outcome.size)
        self._log_delivery(stream, outcome)

    def retry(
        self,
        args: Any = None,
        kwargs: Any = None,
        exc: Exception | None = None,
        throw: bool = True,
        **options: Any,
    ) -> Retry:
        """Retry as Celery does, with the records not yet accepted. Raises `exc` once retries are spent."""
        malformed = self._malformed_answers(exc)
        if exc is not None and malformed >= MALFORMED_ATTEMPTS:
            raise exc
        kwargs = dict(self.request.kwargs)
        if isinstance(exc, DeliveryError) and exc.remaining is not None:
            kwargs["records"] = exc.remaining
        headers = {**(self.request.headers or {}), **cost_headers(*size_of(kwargs["records"]))}
        if malformed or hasattr(self.request, MALFORMED_ANSWERS):
            headers[MALFORMED_ANSWERS] = malformed
        options["headers"] = {**headers, **self.handover_header()}
        try:
            signal = super().retry(
                args=(), kwargs=kwargs, exc=exc, throw=False, argsrepr=HIDDEN, kwargsrepr=HIDDEN, **options
            )
        except Reject as rejection:
            # Celery would drop the message where it cannot send the retry.
            raise OperationalError(type(rejection.reason).__name__) from None
        self.record_handover()
        if isinstance(exc, TransientError):
            self._record_retry(exc, kwargs)
        if throw:
            raise signal
        return signal

    def undeliverable(self, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Undeliverable:
        if args or not is_delivery(kwargs):
            return Undeliverable(
                id=self.request.id,
                message=Message(self.name, self.queue_consumed, kwargs, list(args)),
                failure=self._final(error),
                records=1,
            )
        if isinstance(error, DeliveryError) and error.remaining is not None:
            kwargs = {**kwargs, "records": error.remaining}
        stream = self.stream_of(kwargs)
        return Undeliverable(
            id=self.request.id,
            message=Message(self.name, stream.queue, kwargs),
            failure=self._final(error),
            records=records_of(kwargs),
            stream=stream,
            connection_ids=kwargs["connection_ids"],
            audience_ids=kwargs["audience_ids"],
            attempts=self.request.retries + 1,
        )

    def after_dead_lettering(self, undeliverable: Undeliverable, error: Exception) -> None:
        if undeliverable.stream is None:
            return
        # A defect would end the next delivery, too; text that is no UTF-8 is this message's own.
        if not isinstance(error, TransientError | WorkerLostError | UnicodeError):
            self.app.services.circuit_breakers.pause(undeliverable.stream, undeliverable.failure.alert_type)
        attempt = error if isinstance(error, DeliveryError) else None
        self._record_attempt(
            undeliverable.stream,
            accepted=attempt.accepted if attempt else 0,
            refused=attempt.refused if attempt else 0,
            size=self._accepted_bytes(attempt.remaining or ()) if attempt and attempt.accepted else 0,
        )

    def put_together(self, stream: Stream, batches: Sequence[list[Group]]) -> list[Outcome]:
        """Put batches in one call. Raises a `DeliveryError` where Firehose took none of them."""
        return self._call(
            stream,
            lambda configuration: put_together(
                self.app.clients.get(configuration, stream.region), stream.name, batches
            ),
            batches,
        )

    def _put(self, stream: Stream, groups: list[Group]) -> Outcome:
        """Put the groups. Raises a `DeliveryError` where Firehose took none of them."""
        return self._call(
            stream,
            lambda configuration: self._put_as_allowed(configuration, stream, groups),
            [groups],
        )

    def _call(
        self, stream: Stream, call: Callable[[Configuration], Called], batches: Sequence[list[Group]]
    ) -> Called:
        """Call Firehose with these batches. Raises a `DeliveryError` where it took none of their records."""
        configuration = self._configuration(stream)
        try:
            self.request.has_called_firehose = True
            self.request.put_at = self.app.services.monotonic()
            return call(configuration)
        except FIREHOSE_ERRORS as error:
            found = self._classify(error, configuration, stream)
        if found.renew_client:
            self.app.clients.forget(stream.configuration, stream.region)
        # Outside of `except`: AWS's text may quote what it was sent, and would be the error's context.
        raise KINDS[found.kind](found.failure, refused=sum(map(records_in, batches)))

    def _configuration(self, stream: Stream) -> Configuration:
        """The stream's configuration, from the registry as it is now where the snapshot lacks it."""
        registry = self.app.services.registry
        configuration = registry.snapshot().configurations.get(stream.configuration)
        if configuration is None:
            latest = self.app.installation.latest_of(registry)
            if latest is None:
                raise WorkerTroubleError(STATE_MISSING)
            configuration = latest.configurations.get(stream.configuration)
        if configuration is None:
            advice = (
                f"there is no configuration {stream.configuration!r} (any more); `configure` it, then replay"
            )
            raise PermanentError(Failure(AlertType.INVALID_CREDENTIALS, "UnknownConfiguration", advice))
        return configuration

    def _enqueue_following(self, stream: Stream) -> None:
        """Send the rest of the chain, now that Firehose has accepted this batch of it.

        Under a new ID: where this batch comes back and is delivered once more, so is what follows it, and
        the last record to arrive is still the chain's last.
        """
        if kwargs := following_delivery(self.request.kwargs):
            self.app.send_task(
                stream.task,
                kwargs=kwargs,
                queue=stream.queue,
                headers={
                    **self._enqueued_at_header(),
                    **cost_headers(*size_of(kwargs["records"])),
                    **self.handover_header(),
                },
                argsrepr=HIDDEN,
                kwargsrepr=HIDDEN,
                # A full Redis takes nothing but retries. This one replaces a message that held more.
                retries=1,
            )
            self.record_handover()

    def _put_as_allowed(self, configuration: Configuration, stream: Stream, groups: list[Group]) -> Outcome:
        """Put the groups by PutRecordBatch, or by PutRecord where the policy allows only that."""
        client = self.app.clients.get(configuration, stream.region)
        if stream in self.app.put_record_only:
            try:
                return put_singly(client, stream.name, groups)
            except ClientError as error:
                if not _is_denied(error):
                    raise
            # The policy has changed since.
            self.app.put_record_only.discard(stream)
        try:
            return put(client, stream.name, groups)
        except ClientError as error:
            if not _is_denied(error):
                raise
            batch_error = error
        try:
            outcome = put_singly(client, stream.name, groups)
        except ClientError as error:
            raise batch_error if _is_denied(error) else error from None
        self.app.put_record_only.add(stream)
        self._warn_of_put_record(stream)
        return outcome

    def _classify(self, error: Exception, configuration: Configuration, stream: Stream) -> Classification:
        found = reclassify_expired(classify(error), error, configuration)
        if found.failure.alert_type is not AlertType.STREAM_NOT_FOUND:
            return found
        return reclassify_missing(found, self.app.clients, configuration, stream)

    def _leave_to_other_workers(self, trouble: WorkerTroubleError) -> NoReturn:
        """Requeue the message as it was. The main process pauses the streams that the trouble concerns; a
        message of another queue comes back after a pause.

        It is no attempt: nothing is counted, and a probe of the stream is left to another worker.
        """
        self.request.has_called_firehose = False
        kwargs = self.request.kwargs
        fields = self._log_fields(self.stream_of(kwargs), records_of(kwargs), trouble.failure.request_id)
        logger.warning("worker trouble: %s", trouble, extra=fields)
        if not is_stream_queue(self.queue_consumed):
            self.app.services.sleep(REQUEUE_PAUSE_SECONDS)
        self._release()
        raise Reject(trouble, requeue=True)

    def _is_probe_that_met_again(self, stream: Stream, failure: Failure) -> bool:
        """Whether this message probed the stream, and met what its circuit breaker opened for."""
        breaker = self.app.services.circuit_breakers.get(stream)
        return (
            breaker is not None and breaker.is_probe(self.request.id) and breaker.reason == failure.alert_type
        )

    def _pause_again(self, stream: Stream, failure: Failure) -> NoReturn:
        """Pause the stream as before, and requeue its probe: a known refusal dead-letters no batch."""
        self.app.services.circuit_breakers.pause(stream, failure.alert_type)
        with self.tolerating_redis_errors():
            text = f"refused again: the stream is paused as before, and the batch waits; {failure.message}"
            kwargs = self.request.kwargs
            self._raise_alert(stream, failure._replace(message=text), kwargs, records_of(kwargs))
        self._release()
        raise Reject(str(failure.error_code), requeue=True)

    def _malformed_answers(self, error: Exception | None) -> int:
        """How many malformed answers in a row this batch has had, with this one; 0 where this is none."""
        if not isinstance(error, TransientError) or error.failure.error_code != MALFORMED_RESPONSE:
            return 0
        before = getattr(self.request, MALFORMED_ANSWERS, 0)
        return before + 1 if isinstance(before, int) else 1

    def _warn_of_put_record(self, stream: Stream) -> None:
        kwargs, alerts = self.request.kwargs, self.app.services.alerts
        with self.tolerating_redis_errors():
            if alerts.start_cooldown(f"{PUT_RECORD_ONLY_SUBJECT}:{stream.queue}"):
                alerts.raise_alert(
                    Failure(AlertType.ACCESS_DENIED, "AccessDeniedException", PUT_RECORD_ONLY),
                    severity=Severity.WARNING,
                    stream=stream,
                    connection_ids=kwargs["connection_ids"],
                    audience_ids=kwargs["audience_ids"],
                )

    def _open_circuit_breaker(self, stream: Stream, failure: Failure) -> None:
        """Open the stream's circuit breaker: its batches wait in the broker until a probe succeeds."""
        if self._is_breaker_informed:
            return
        with self.tolerating_redis_errors():
            if stream not in self.app.services.registry.snapshot().streams:
                # No worker consumes its queue any more, so no batch would ever probe it.
                return
            self.request.failures_in_a_row = self.app.services.circuit_breakers.record_failure(
                stream,
                failure.alert_type,
                first=self.retry_backoff,
                longest=longest_open(self.retry_backoff_max),
                message_id=self.request.id,
            )

    @property
    def _is_breaker_informed(self) -> bool:
        """Whether the breaker knows already what the call meant for the stream, from a run."""
        return hasattr(self.request, ATTEMPTED)

    def _leave_probing_to_another(self) -> None:
        """Let another message probe the stream, if this one was its probe."""
        if is_stream_queue(self.queue_consumed):
            # Without Redis, the others wait until the probe counts as lost.
            with suppress(RedisError):
                self.app.services.circuit_breakers.release_probe(
                    stream_of(self.queue_consumed), self.request.id
                )

    def _record_attempt(
        self,
        stream: Stream,
        *,
        accepted: int = 0,
        refused: int = 0,
        waiting: int = 0,
        size: int = 0,
        attempts: Sequence[str] = (),
    ) -> None:
        """Record a finished attempt in the counters and the history, with its idempotency record.

        `size` is the accepted records' bytes, `attempts` the idempotency keys where there are several.
        """
        services, retries = self.app.services, self.request.retries
        counters, breakers = services.counters, services.circuit_breakers
        seconds = self._seconds_since_enqueued() if accepted else None

        def record(pipe: Redis) -> None:
            # Half and half opens no breaker, so it must not leave one open either.
            if accepted and accepted >= refused and not self._is_breaker_informed:
                breakers.record_success(stream, pipe)
            counters.delivered(stream, accepted=accepted, refused=refused, pipe=pipe)
            if billing := getattr(self.request, "billing", None):
                counters.billed(stream, **billing._asdict(), pipe=pipe)
            services.history.record(
                stream, pipe, delivered=accepted, refused=refused, size=size, seconds=seconds
            )
            if retries or waiting:
                counters.retrying(stream, self.request.id, waiting, pipe)

        self.record_counters(record, attempts)

    def _accepted_bytes(self, remaining: Sequence[Group]) -> int:
        return size_of(self.request.kwargs["records"]).bytes - size_of(remaining).bytes

    def _enqueued_at_header(self) -> dict[str, float]:
        enqueued_at = self.request.get(ENQUEUED_AT_HEADER)
        return {} if enqueued_at is None else {ENQUEUED_AT_HEADER: enqueued_at}

    def _seconds_since_enqueued(self) -> float | None:
        """None for a message that does not say, such as a replay's."""
        enqueued_at = self.request.get(ENQUEUED_AT_HEADER)
        return self.app.services.clock() - enqueued_at if isinstance(enqueued_at, int | float) else None

    def _record_retry(self, error: TransientError, kwargs: dict[str, Any]) -> None:
        stream, waiting = self.stream_of(kwargs), records_in(kwargs["records"])
        self._log_retry(stream, error.failure, waiting)
        self._record_attempt(
            stream,
            accepted=error.accepted,
            refused=error.refused,
            waiting=waiting,
            size=self._accepted_bytes(kwargs["records"]) if error.accepted else 0,
        )
        with self.tolerating_redis_errors():
            # The retry may have ended before this attempt was recorded: nothing waits any more.
            if self.app.services.idempotency.is_completed(self.attempt, self.request.retries + 1):
                self.app.services.counters.retrying(stream, self.request.id, 0)
        failures_in_a_row = getattr(self.request, "failures_in_a_row", 0)
        if max(self.request.retries + 1, failures_in_a_row) >= WARN_AFTER_ATTEMPTS:
            with self.tolerating_redis_errors():
                self._warn(stream, error.failure, kwargs, waiting)

    def _log_delivery(self, stream: Stream, outcome: Outcome) -> None:
        if logger.isEnabledFor(logging.DEBUG):
            fields = self._log_fields(stream, outcome.accepted, outcome.request_id)
            logger.debug("%s: %d records delivered", stream.queue, outcome.accepted, extra=fields)

    def _log_retry(self, stream: Stream, failure: Failure, records: int) -> None:
        fields = self._log_fields(stream, records, failure.request_id)
        logger.warning(
            "%s: %s; %d records wait for a retry", stream.queue, failure.error_code, records, extra=fields
        )

    def _log_fields(self, stream: Stream, records: int, aws_request_id: str | None = None) -> dict[str, Any]:
        """The fields of a line about the call of Firehose that has just ended."""
        put_at = getattr(self.request, "put_at", None)
        return log_fields(
            stream=stream.queue,
            connections=self.request.kwargs["connection_ids"],
            task_id=self.request.id,
            records=records,
            duration_seconds=None if put_at is None else self.app.services.monotonic() - put_at,
            aws_request_id=aws_request_id,
        )

    def _warn(self, stream: Stream, failure: Failure, kwargs: dict[str, Any], records: int) -> None:
        """Raise a warning of a stream that keeps failing, unless it is in its cooldown."""
        if self.app.services.alerts.start_cooldown(stream.queue):
            self._raise_alert(stream, failure, kwargs, records)

    def _raise_alert(self, stream: Stream, failure: Failure, kwargs: dict[str, Any], records: int) -> None:
        self.app.services.alerts.raise_alert(
            failure,
            stream=stream,
            connection_ids=kwargs["connection_ids"],
            audience_ids=kwargs["audience_ids"],
            attempts=self.request.retries + 1,
            records=records,
        )

    def _final(self, error: Exception) -> Failure:
        """The failure that ended the delivery; for a transient one, that its retries are spent."""
        if isinstance(error, TransientError):
            last = error.failure.message.replace(TRIED_AGAIN, "")
            advice = f"given up after {self.request.retries + 1} attempts; the last failure: {last}"
            advice += "; replay the dead letter once the stream takes records"
            return Failure(AlertType.RETRY_LIMIT_EXCEEDED, error.failure.error_code, advice)
        if isinstance(error, DeliveryError):
            return error.failure
        advice = "not a call that this task takes, or a defect in audience-firehose"
        if not getattr(self.request, "has_called_firehose", False):
            advice += "; nothing of it was sent"
        return Failure(AlertType.INVALID_REQUEST, type(error).__name__, advice)

    def stream_of(self, kwargs: dict[str, Any]) -> Stream:
        """The stream that a delivery is for."""
        return Stream(kwargs["configuration"], self.region, kwargs["delivery_stream_name"])


def _is_denied(error: ClientError) -> bool:
    return classify(error).failure.alert_type is AlertType.ACCESS_DENIED


def make_delivery_task(region: str) -> DeliveryTask:
    """The task that delivers into the streams of a region."""

    @app.task(name=delivery_task(region), base=DeliveryTask, bind=True, region=region)
    def deliver(
        self: DeliveryTask,
        *,
        configuration: str,
        delivery_stream_name: str,
        records: list[Group],
        connection_ids: list[str],
        audience_ids: list[int],
        then: list[list[Group]] | None = None,
    ) -> None:
        if not is_delivery(self.request.kwargs):
            raise TypeError("not the arguments of a delivery")
        self.deliver(Stream(configuration, region, delivery_stream_name), records)

    task: DeliveryTask = deliver
    return task


DELIVERY_TASKS = {region: make_delivery_task(region) for region in regions()}

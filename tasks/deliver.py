"""The delivery tasks, `audience.deliver.<region>`: each puts a batch into a Firehose stream."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from celery.exceptions import Reject, Retry, WorkerLostError
from kombu.exceptions import OperationalError

from schemas.settings import Configuration
from tasks.attempts import Attempt, AttemptRecorder, seconds_since_enqueued
from tasks.base import INFRASTRUCTURE_ERRORS, ForwarderTask, tolerating_redis_errors
from tasks.breaker_reports import BreakerReports
from tasks.delivery_failures import WARN_AFTER_ATTEMPTS, DeliveryAlerts, final_failure
from tasks.delivery_runs import DeliveryRun
from tasks.firehose_calls import FirehoseCalls
from worker.broker.redis.bodies import cost_headers
from worker.broker.redis.delivery_runs import calls_of_run
from worker.broker.redis.reservations import find_deliveries
from worker.celery import app
from worker.errors import DeliveryError, PermanentError, TransientError, WorkerTroubleError
from worker.failures.alert_types import Failure
from worker.failures.dead_lettering import Undeliverable
from worker.failures.dead_letters import Message
from worker.firehose.answers import MALFORMED_RESPONSE
from worker.firehose.deliveries import following_delivery, is_delivery, records_of
from worker.firehose.groups import Group, records_in, size_of
from worker.firehose.put import Outcome
from worker.firehose.regions import regions
from worker.logs.fields import log_fields
from worker.privacy import HIDDEN
from worker.queues import ENQUEUED_AT_HEADER, Stream, delivery_task, is_stream_queue, stream_of
from worker.retry_policy import REQUEUE_PAUSE_SECONDS

logger = logging.getLogger(__name__)

MALFORMED_ATTEMPTS = 5
"""Malformed answers to a batch after which it becomes a dead letter. Each may have stored its records."""
MALFORMED_ANSWERS = "malformed_answers"
"""The header that counts them in the message of a retry."""
ATTEMPTED = "attempted"
"""The attribute of a request whose batch was in a run's call: returns its outcome, or raises the error."""


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

    @property
    def calls(self) -> FirehoseCalls:
        """Makes the calls of Firehose."""
        app = self.app
        return FirehoseCalls(app.clients, app.services.registry, app.installation, app.put_record_only)

    @property
    def attempt_recorder(self) -> AttemptRecorder:
        """Records what attempts came to."""
        services = self.app.services
        return AttemptRecorder(services.counters, services.history, services.circuit_breakers)

    @property
    def breaker_reports(self) -> BreakerReports:
        """Informs the circuit breakers."""
        services = self.app.services
        return BreakerReports(
            services.circuit_breakers,
            services.registry,
            services.redis,
            self.retry_backoff,
            self.retry_backoff_max,
        )

    @property
    def alerts(self) -> DeliveryAlerts:
        """Raises alerts."""
        return DeliveryAlerts(self.app.services.alerts)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task. If it ends without a call to Firehose, another batch may probe at once."""
        try:
            if calls := calls_of_run(kwargs, (self.request.properties or {}).get("delivery_tag")):
                with self.requeueing_on_errors():
                    return self._deliver_run(calls)
            return super().__call__(*args, **kwargs)
        finally:
            if not self._has_called_firehose and is_stream_queue(self.queue_consumed):
                self.breaker_reports.leave_probing(stream_of(self.queue_consumed), self.request.id)

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

    def stream_of(self, kwargs: dict[str, Any]) -> Stream:
        """The stream that a delivery is for."""
        return Stream(kwargs["configuration"], self.region, kwargs["delivery_stream_name"])

    def begin_call(self, stream: Stream) -> Configuration:
        """The configuration to call Firehose with. From here on, the request counts as having called it."""
        configuration = self.calls.configuration_of(stream)
        self.request.has_called_firehose = True
        self.request.put_at = self.app.services.monotonic()
        return configuration

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
            self._report_failure(stream, error.failure)
            raise
        except WorkerTroubleError as trouble:
            if self.breaker_reports.is_probe_that_met_again(stream, trouble.failure, self.request.id):
                self._report_failure(stream, trouble.failure)
            self._leave_to_other_workers(trouble)
        except PermanentError as error:
            if self.breaker_reports.is_probe_that_met_again(stream, error.failure, self.request.id):
                self._pause_again(stream, error.failure)
            raise
        self.request.billing = outcome.billing
        if outcome.failure:
            if outcome.is_mostly_refused:
                self._report_failure(stream, outcome.failure)
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
                failure=self._final_failure(error),
                records=1,
            )
        if isinstance(error, DeliveryError) and error.remaining is not None:
            kwargs = {**kwargs, "records": error.remaining}
        stream = self.stream_of(kwargs)
        return Undeliverable(
            id=self.request.id,
            message=Message(self.name, stream.queue, kwargs),
            failure=self._final_failure(error),
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
        failed = error if isinstance(error, DeliveryError) else None
        self._record_attempt(
            undeliverable.stream,
            accepted=failed.accepted if failed else 0,
            refused=failed.refused if failed else 0,
            size=self._accepted_bytes(failed.remaining or ()) if failed and failed.accepted else 0,
        )

    def _put(self, stream: Stream, groups: list[Group]) -> Outcome:
        kwargs = self.request.kwargs
        return self.calls.put(
            self.begin_call(stream),
            stream,
            groups,
            on_put_record_only=lambda: self.alerts.warn_of_put_record(stream, kwargs),
        )

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

    def _pause_again(self, stream: Stream, failure: Failure) -> NoReturn:
        """Pause the stream as before, and requeue its probe: a known refusal dead-letters no batch."""
        self.app.services.circuit_breakers.pause(stream, failure.alert_type)
        kwargs = self.request.kwargs
        self.alerts.report_refused_again(
            stream, kwargs, failure, attempts=self.request.retries + 1, records=records_of(kwargs)
        )
        self._release()
        raise Reject(str(failure.error_code), requeue=True)

    def _malformed_answers(self, error: Exception | None) -> int:
        """How many malformed answers in a row this batch has had, with this one; 0 where this is none."""
        if not isinstance(error, TransientError) or error.failure.error_code != MALFORMED_RESPONSE:
            return 0
        before = getattr(self.request, MALFORMED_ANSWERS, 0)
        return before + 1 if isinstance(before, int) else 1

    def _report_failure(self, stream: Stream, failure: Failure) -> None:
        if not self._is_breaker_informed:
            self.request.failures_in_a_row = self.breaker_reports.report_failure(
                stream, failure, self.request.id
            )

    @property
    def _has_called_firehose(self) -> bool:
        return getattr(self.request, "has_called_firehose", False)

    @property
    def _is_breaker_informed(self) -> bool:
        """Whether the breaker knows already what the call meant for the stream, from a run."""
        return hasattr(self.request, ATTEMPTED)

    def _record_attempt(
        self, stream: Stream, *, accepted: int = 0, refused: int = 0, waiting: int = 0, size: int = 0
    ) -> None:
        """Record a finished attempt, with its idempotency record; `size` in bytes of accepted records."""
        attempt = Attempt(
            stream,
            self.request.id,
            accepted=accepted,
            refused=refused,
            waiting=waiting,
            is_retry=bool(self.request.retries),
            size=size,
            seconds=seconds_since_enqueued([self.request], self.app.services.clock()),
            billing=getattr(self.request, "billing", None),
            is_breaker_informed=self._is_breaker_informed,
        )
        self.record_counters(partial(self.attempt_recorder.record, attempt))

    def _accepted_bytes(self, remaining: Sequence[Group]) -> int:
        return size_of(self.request.kwargs["records"]).bytes - size_of(remaining).bytes

    def _enqueued_at_header(self) -> dict[str, float]:
        enqueued_at = self.request.get(ENQUEUED_AT_HEADER)
        return {} if enqueued_at is None else {ENQUEUED_AT_HEADER: enqueued_at}

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
        with tolerating_redis_errors():
            # The retry may have ended before this attempt was recorded: nothing waits any more.
            if self.app.services.idempotency.is_completed(self.attempt, self.request.retries + 1):
                self.app.services.counters.retrying(stream, self.request.id, 0)
        failures_in_a_row = getattr(self.request, "failures_in_a_row", 0)
        if max(self.request.retries + 1, failures_in_a_row) >= WARN_AFTER_ATTEMPTS:
            self.alerts.warn_of_failures(
                stream, kwargs, error.failure, attempts=self.request.retries + 1, records=waiting
            )

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

    def _final_failure(self, error: Exception) -> Failure:
        return final_failure(
            error,
            attempts=self.request.retries + 1,
            has_called_firehose=self._has_called_firehose,
        )


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

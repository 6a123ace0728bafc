"""From a batch to Firehose: `audience.deliver.<region>`, one task a region."""

from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from celery.exceptions import Reject, Retry

from tasks.base import ForwarderTask
from worker.burial import Case
from worker.celery import app
from worker.environment import environment
from worker.errors import DeliveryError, PermanentError, SecretKeyError, TransientError
from worker.failures import AlertType, Failure
from worker.firehose.batching import Unit, records_in
from worker.firehose.creation import reconsidered
from worker.firehose.put import Outcome, put
from worker.firehose.regions import regions
from worker.firehose.verdicts import verdict
from worker.queues import Stream, delivery_task
from worker.state.dead_letters import Message

FIREHOSE_ERRORS = (BotoCoreError, ClientError, ResponseParserError, SecretKeyError)
WARN_AFTER_ATTEMPTS = 3
"""Failed attempts of one batch from which on a stream "keeps failing". One hiccup is no news."""


class DeliveryTask(ForwarderTask):
    """Puts one batch. Celery retries it with what remains; what ends it for good becomes a dead letter."""

    abstract = True
    autoretry_for = (TransientError,)
    max_retries = environment().retry_max
    retry_backoff = environment().retry_backoff
    retry_backoff_max = environment().retry_backoff_max
    retry_jitter = True
    region: str

    def deliver(self, stream: Stream, units: list[Unit]) -> None:
        """Put the units, unless this attempt is done with or the stream is closed."""
        state = self.app.state
        if state.receipts.issued(self.request.id, self.request.retries):
            return
        if state.gates.get(stream):
            raise Reject("the stream is closed", requeue=True)
        outcome = self._put(stream, units)
        with self.bookkeeping():
            state.counters.delivered(stream, outcome.accepted, outcome.refused)
        if outcome.failure:
            raise TransientError(outcome.failure, outcome.remaining)
        with self.bookkeeping():
            state.receipts.issue(self.request.id, self.request.retries)
            if self.request.retries:
                state.counters.retrying(stream, self.request.id, 0)

    def retry(
        self,
        args: Any = None,
        kwargs: Any = None,
        exc: Exception | None = None,
        throw: bool = True,
        **options: Any,
    ) -> Retry:
        """Celery's retry, with only what Firehose has not taken. Raises `exc` where retries are spent."""
        kwargs = dict(self.request.kwargs)
        if isinstance(exc, DeliveryError) and exc.remaining is not None:
            kwargs["records"] = exc.remaining
        signal = super().retry(args=(), kwargs=kwargs, exc=exc, throw=False, **options)
        with self.bookkeeping():
            self._note_retry(exc, kwargs)
        if throw:
            raise signal
        return signal

    def case(self, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Case:
        stream = self._stream(kwargs)
        if isinstance(error, DeliveryError) and stream:
            remaining = kwargs["records"] if error.remaining is None else error.remaining
            kwargs = {**kwargs, "records": remaining}
            return Case(
                id=self.request.id,
                message=Message(self.name, stream.queue, kwargs),
                failure=self._final(error),
                records=records_in(remaining),
                stream=stream,
                connection_ids=kwargs["connection_ids"],
                audience_ids=kwargs["audience_ids"],
                attempts=self.request.retries + 1,
            )
        problem = "not a call that this task takes, or a defect in audience-firehose; nothing of it was sent"
        return Case(
            id=self.request.id,
            message=Message(self.name, self.queue_consumed, kwargs, list(args)),
            failure=Failure(AlertType.INVALID_REQUEST, type(error).__name__, problem),
            records=1,
        )

    def after_burial(self, case: Case, error: Exception) -> None:
        if case.stream and isinstance(error, PermanentError):
            self.app.state.gates.close(case.stream, case.failure.alert_type)
        with self.bookkeeping():
            self.app.state.receipts.issue(self.request.id, self.request.retries)
            if case.stream:
                self.app.state.counters.retrying(case.stream, self.request.id, 0)

    def _put(self, stream: Stream, units: list[Unit]) -> Outcome:
        """Put the units. Raises `TransientError` or `PermanentError` where nothing of them was taken."""
        configuration = self.app.state.registry.snapshot().configurations.get(stream.configuration)
        if configuration is None:
            advice = (
                f"there is no configuration {stream.configuration!r} (any more); `configure` it, then replay"
            )
            raise PermanentError(Failure(AlertType.INVALID_CREDENTIALS, "UnknownConfiguration", advice))
        try:
            return put(self.app.clients.get(configuration, stream.region), stream.name, units)
        except FIREHOSE_ERRORS as error:
            found = verdict(error)
            if found.failure.alert_type is AlertType.STREAM_NOT_FOUND:
                found = reconsidered(found, self.app.clients.get(configuration, stream.region), stream.name)
            if found.renew_client:
                self.app.clients.forget(stream.configuration, stream.region)
            with self.bookkeeping():
                self.app.state.counters.delivered(stream, accepted=0, refused=records_in(units))
            # `from None`: what AWS says may quote what it was sent.
            raise (TransientError if found.transient else PermanentError)(found.failure) from None

    def _note_retry(self, error: Exception | None, kwargs: dict[str, Any]) -> None:
        state, stream, attempts = self.app.state, self._stream(kwargs), self.request.retries + 1
        if stream is None or not isinstance(error, TransientError):
            return
        state.receipts.issue(self.request.id, self.request.retries)
        state.counters.retrying(stream, self.request.id, records_in(kwargs["records"]))
        if attempts >= WARN_AFTER_ATTEMPTS and not state.alerts.is_quiet_about(stream):
            state.alerts.raise_alert(
                error.failure,
                stream=stream,
                connection_ids=kwargs["connection_ids"],
                audience_ids=kwargs["audience_ids"],
                attempts=attempts,
                records=records_in(kwargs["records"]),
            )

    def _final(self, error: DeliveryError) -> Failure:
        """A transient failure that ends a delivery is one of its retries having run out."""
        if not isinstance(error, TransientError):
            return error.failure
        advice = (
            f"given up after {self.request.retries + 1} attempts; the last failure: {error.failure.message}"
        )
        return Failure(AlertType.RETRY_LIMIT_EXCEEDED, error.failure.error_code, advice)

    def _stream(self, kwargs: dict[str, Any]) -> Stream | None:
        configuration, name = kwargs.get("configuration"), kwargs.get("delivery_stream_name")
        if isinstance(configuration, str) and isinstance(name, str):
            return Stream(configuration, self.region, name)
        return None


def make_delivery_task(region: str) -> DeliveryTask:
    """The task that delivers into the streams of a region."""

    @app.task(name=delivery_task(region), base=DeliveryTask, bind=True, region=region)
    def deliver(
        self: DeliveryTask,
        *,
        configuration: str,
        delivery_stream_name: str,
        records: list[Unit],
        connection_ids: list[str],
        audience_ids: list[int],
    ) -> None:
        self.deliver(Stream(configuration, region, delivery_stream_name), records)

    task: DeliveryTask = deliver
    return task


DELIVERY_TASKS = {region: make_delivery_task(region) for region in regions()}

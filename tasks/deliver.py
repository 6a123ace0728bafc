"""From a batch to Firehose: `audience.deliver.<region>`, one task a region."""

from contextlib import suppress
from typing import Any

from celery.exceptions import Reject, Retry, WorkerLostError
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError

from tasks.base import ForwarderTask
from worker.celery import app
from worker.config import current_settings
from worker.errors import DeliveryError, PermanentError, TransientError
from worker.failures.alert_types import AlertType, Failure
from worker.failures.dead_lettering import Undeliverable
from worker.failures.dead_letters import Message
from worker.firehose.creation import reclassify_missing
from worker.firehose.deliveries import following_delivery, is_delivery, records_of
from worker.firehose.errors import FIREHOSE_ERRORS, classify
from worker.firehose.groups import Group, records_in
from worker.firehose.put import Outcome, put
from worker.firehose.regions import regions
from worker.privacy import HIDDEN
from worker.queues import Stream, delivery_task, is_stream_queue, stream_of
from worker.retry_policy import OPEN_MAX_SECONDS, REQUEUE_PAUSE_SECONDS

WARN_AFTER_ATTEMPTS = 3
"""Failed attempts, of a batch or in a row, from which on a stream "keeps failing". One hiccup is no news."""


class DeliveryTask(ForwarderTask):
    """Puts one batch. Celery retries it with what remains; what ends it for good becomes a dead letter."""

    abstract = True
    empties_redis = True
    autoretry_for = (TransientError,)
    max_retries = current_settings().retry_max
    retry_backoff = current_settings().retry_backoff
    retry_backoff_max = current_settings().retry_backoff_max
    retry_jitter = True
    region: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task. If it ends without having asked Firehose, another batch may probe at once."""
        try:
            return super().__call__(*args, **kwargs)
        finally:
            if not getattr(self.request, "has_asked", False):
                self._leave_probing_to_another()

    def deliver(self, stream: Stream, groups: list[Group]) -> None:
        """Put the groups, unless this attempt is done with.

        Whether the stream flows was asked when the worker took the message off the stream's queue.
        """
        if self.queue_consumed != stream.queue and self.app.services.circuit_breakers.get(stream):
            self.app.services.sleep(REQUEUE_PAUSE_SECONDS)
            raise Reject("the stream is closed", requeue=True)
        if not self.acquire():
            return
        try:
            outcome = self._put(stream, groups)
        except TransientError as error:
            self._close_for_a_while(stream, error.failure)
            raise
        if outcome.failure:
            if outcome.is_mostly_refused:
                self._close_for_a_while(stream, outcome.failure)
            raise TransientError(
                outcome.failure, outcome.remaining, accepted=outcome.accepted, refused=outcome.refused
            )
        self._enqueue_following(stream)
        self._enter(stream, accepted=outcome.accepted)

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
        try:
            signal = super().retry(
                args=(), kwargs=kwargs, exc=exc, throw=False, argsrepr=HIDDEN, kwargsrepr=HIDDEN, **options
            )
        except Reject as rejection:
            # Celery would drop the message where it cannot send the retry.
            raise OperationalError(type(rejection.reason).__name__) from None
        if isinstance(exc, TransientError):
            self._note_retry(exc, kwargs)
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
        stream = self._stream(kwargs)
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
        # Whatever else ends a sound delivery would end the next one too.
        if not isinstance(error, TransientError | WorkerLostError):
            self.app.services.circuit_breakers.pause(undeliverable.stream, undeliverable.failure.alert_type)
        told = error if isinstance(error, DeliveryError) else None
        self._enter(
            undeliverable.stream, accepted=told.accepted if told else 0, refused=told.refused if told else 0
        )

    def _put(self, stream: Stream, groups: list[Group]) -> Outcome:
        """Put the groups. Raises `TransientError` or `PermanentError` where nothing of them was taken."""
        configuration = self.app.services.registry.snapshot().configurations.get(stream.configuration)
        if configuration is None:
            advice = (
                f"there is no configuration {stream.configuration!r} (any more); `configure` it, then replay"
            )
            raise PermanentError(Failure(AlertType.INVALID_CREDENTIALS, "UnknownConfiguration", advice))
        try:
            self.request.has_asked = True
            return put(self.app.clients.get(configuration, stream.region), stream.name, groups)
        except FIREHOSE_ERRORS as error:
            found = classify(error)
            if found.failure.alert_type is AlertType.STREAM_NOT_FOUND:
                found = reclassify_missing(
                    found, self.app.clients.get(configuration, stream.region), stream.name
                )
            if found.renew_client:
                self.app.clients.forget(stream.configuration, stream.region)
            kind = TransientError if found.transient else PermanentError
            # `from None`: what AWS says may quote what it was sent.
            raise kind(found.failure, refused=records_in(groups)) from None

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
                argsrepr=HIDDEN,
                kwargsrepr=HIDDEN,
                # A full Redis takes nothing but retries. This one replaces a message that held more.
                retries=1,
            )

    def _close_for_a_while(self, stream: Stream, failure: Failure) -> None:
        """What is to be delivered waits in the broker, until a single batch has found the stream well."""
        with self.bookkeeping():
            if stream not in self.app.services.registry.snapshot().streams:
                # Nobody consumes its queue any more, and nothing would ever probe it.
                return
            self.request.failures_in_a_row = self.app.services.circuit_breakers.record_failure(
                stream,
                failure.alert_type,
                first=self.retry_backoff,
                longest=min(self.retry_backoff_max, OPEN_MAX_SECONDS),
                message_id=self.request.id,
            )

    def _leave_probing_to_another(self) -> None:
        """Where this message was to probe the stream of the queue that it came from."""
        if is_stream_queue(self.queue_consumed):
            # Without Redis, the others wait until the probe must be lost.
            with suppress(RedisError):
                self.app.services.circuit_breakers.release_probe(
                    stream_of(self.queue_consumed), self.request.id
                )

    def _enter(self, stream: Stream, *, accepted: int = 0, refused: int = 0, waiting: int = 0) -> None:
        """Enter a finished attempt into the books, with its receipt."""
        counters, breakers, retries = (
            self.app.services.counters,
            self.app.services.circuit_breakers,
            self.request.retries,
        )

        def entries(pipe: Redis) -> None:
            # Half and half closes no breaker, so it must not leave one to its next probe either.
            if accepted and accepted >= refused:
                breakers.record_success(stream, pipe)
            counters.delivered(stream, accepted=accepted, refused=refused, pipe=pipe)
            if retries or waiting:
                counters.retrying(stream, self.request.id, waiting, pipe)

        self.enter(entries)

    def _note_retry(self, error: TransientError, kwargs: dict[str, Any]) -> None:
        stream, waiting = self._stream(kwargs), records_in(kwargs["records"])
        self._enter(stream, accepted=error.accepted, refused=error.refused, waiting=waiting)
        failures_in_a_row = getattr(self.request, "failures_in_a_row", 0)
        if max(self.request.retries + 1, failures_in_a_row) >= WARN_AFTER_ATTEMPTS:
            with self.bookkeeping():
                self._warn(stream, error.failure, kwargs, waiting)

    def _warn(self, stream: Stream, failure: Failure, kwargs: dict[str, Any], records: int) -> None:
        """Tell operators of a stream that keeps failing, unless they have just been told."""
        alerts = self.app.services.alerts
        if alerts.start_cooldown(stream.queue):
            alerts.raise_alert(
                failure,
                stream=stream,
                connection_ids=kwargs["connection_ids"],
                audience_ids=kwargs["audience_ids"],
                attempts=self.request.retries + 1,
                records=records,
            )

    def _final(self, error: Exception) -> Failure:
        """What ended the delivery. Of a transient failure that is its retries having run out."""
        if isinstance(error, TransientError):
            attempts = self.request.retries + 1
            advice = f"given up after {attempts} attempts; the last failure: {error.failure.message}"
            return Failure(AlertType.RETRY_LIMIT_EXCEEDED, error.failure.error_code, advice)
        if isinstance(error, DeliveryError):
            return error.failure
        advice = "not a call that this task takes, or a defect in audience-firehose; nothing of it was sent"
        return Failure(AlertType.INVALID_REQUEST, type(error).__name__, advice)

    def _stream(self, kwargs: dict[str, Any]) -> Stream:
        return Stream(kwargs["configuration"], self.region, kwargs["delivery_stream_name"])


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

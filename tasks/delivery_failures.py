"""What operators are told of deliveries that fail."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.base import tolerating_redis_errors
from worker.errors import DeliveryError, TransientError
from worker.failures.alert_types import AlertType, Failure, Severity
from worker.failures.alerts import Alerts
from worker.firehose.errors import TRIED_AGAIN
from worker.queues import Stream

WARN_AFTER_ATTEMPTS = 3
"""Failed attempts, of a batch or in a row, from which on a stream "keeps failing". A hiccup is no news."""
PUT_RECORD_ONLY_SUBJECT = "put-record"
"""The subject of the warning's cooldown, with the stream's queue."""
PUT_RECORD_ONLY = (
    "the policy allows firehose:PutRecord and not firehose:PutRecordBatch: records are delivered one a call,"
    " which is slow; attach what `audience-firehose policy` prints"
)


@dataclass(frozen=True)
class DeliveryAlerts:
    """Raises the alerts of a delivery, given as its arguments. A Redis that is away is logged."""

    alerts: Alerts

    def warn_of_failures(
        self, stream: Stream, delivery: Mapping[str, Any], failure: Failure, *, attempts: int, records: int
    ) -> None:
        """Raise a warning of a stream that keeps failing, unless it is in its cooldown."""
        with tolerating_redis_errors():
            if self.alerts.start_cooldown(stream.queue):
                self._raise(stream, delivery, failure, attempts=attempts, records=records)

    def warn_of_put_record(self, stream: Stream, delivery: Mapping[str, Any]) -> None:
        """Raise a warning of a policy that lacks PutRecordBatch, unless it is in its cooldown."""
        failure = Failure(AlertType.ACCESS_DENIED, "AccessDeniedException", PUT_RECORD_ONLY)
        with tolerating_redis_errors():
            if self.alerts.start_cooldown(f"{PUT_RECORD_ONLY_SUBJECT}:{stream.queue}"):
                self._raise(stream, delivery, failure, severity=Severity.WARNING)

    def report_refused_again(
        self, stream: Stream, delivery: Mapping[str, Any], failure: Failure, *, attempts: int, records: int
    ) -> None:
        """Raise the alert of a probe that met what the stream was paused for."""
        text = f"refused again: the stream is paused as before, and the batch waits; {failure.message}"
        with tolerating_redis_errors():
            self._raise(stream, delivery, failure._replace(message=text), attempts=attempts, records=records)

    def _raise(self, stream: Stream, delivery: Mapping[str, Any], failure: Failure, **more: Any) -> None:
        self.alerts.raise_alert(
            failure,
            stream=stream,
            connection_ids=delivery["connection_ids"],
            audience_ids=delivery["audience_ids"],
            **more,
        )


def final_failure(error: Exception, *, attempts: int, has_called_firehose: bool) -> Failure:
    """The failure that ended a delivery; for a transient error, that its retries are spent."""
    if isinstance(error, TransientError):
        last = error.failure.message.replace(TRIED_AGAIN, "")
        advice = f"given up after {attempts} attempts; the last failure: {last}"
        advice += "; replay the dead letter once the stream takes records"
        return Failure(AlertType.RETRY_LIMIT_EXCEEDED, error.failure.error_code, advice)
    if isinstance(error, DeliveryError):
        return error.failure
    advice = "not a call that this task takes, or a defect in audience-firehose"
    if not has_called_firehose:
        advice += "; nothing of it was sent"
    return Failure(AlertType.INVALID_REQUEST, type(error).__name__, advice)

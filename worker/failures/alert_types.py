"""The closed set of alert types: one table, and all that depends on a type reads it here.

To add a type, add a row and its section in docs/alerts.md. The contract pins the names.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Severity(StrEnum):
    """Whether records or streams wait for an operator."""

    WARNING = "warning"
    FATAL = "fatal"


class HealthCheck(StrEnum):
    """The checks of `audience-firehose test`, in the order in which each can fail."""

    ENDPOINT = "endpoint"
    CREDENTIALS = "credentials"
    PERMISSION = "permission"
    STREAM = "stream"
    SOURCE = "source"
    STATUS = "status"
    ENCRYPTION = "encryption"
    RECORD = "record"


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A row of the table: all that depends on an alert's type."""

    name: str
    """The name in the contract, the alert list and the dashboard."""
    severity: Severity
    replayable: bool
    """Whether a dead letter of this type can ever be delivered as it is."""
    advice: str
    """The next step of an operator."""
    failed_check: HealthCheck | None
    """The check of `audience-firehose test` that fails where AWS answers `test` with this failure; None
    where AWS answers no call so."""
    test_advice: str = ""
    """The next step that `test` prints beside that check; the advice where it is empty."""


class AlertType(StrEnum):
    """The types of alerts. A member is its name as text, with the columns of its row as attributes."""

    severity: Severity
    replayable: bool
    advice: str
    failed_check: HealthCheck | None
    test_advice: str

    def __new__(cls, row: _Row) -> "AlertType":
        """Make the member of a row."""
        member = str.__new__(cls, row.name)
        member._value_ = row.name
        member.severity = row.severity
        member.replayable = row.replayable
        member.advice = row.advice
        member.failed_check = row.failed_check
        member.test_advice = row.test_advice or row.advice
        return member

    INTERNAL_SERVER_ERROR = _Row(
        name="500 - Internal Server Error",
        severity=Severity.WARNING,
        replayable=True,
        advice="Firehose keeps refusing; delivery is tried again with growing pauses",
        failed_check=HealthCheck.ENDPOINT,
        test_advice="Firehose is throttling or in trouble; try again in a minute",
    )
    RETRY_LIMIT_EXCEEDED = _Row(
        name="Retry Limit Exceeded",
        severity=Severity.FATAL,
        replayable=True,
        advice=(
            "Firehose refused the batch until its retries were spent; check the stream with"
            " `audience-firehose test`, then replay"
        ),
        failed_check=None,
    )
    INVALID_CREDENTIALS = _Row(
        name="Invalid Credentials",
        severity=Severity.FATAL,
        replayable=True,
        advice=(
            "AWS refuses the credentials; correct them with `audience-firehose configure`,"
            " check with `audience-firehose test`, then replay"
        ),
        failed_check=HealthCheck.CREDENTIALS,
        test_advice="AWS refuses them; correct them with `audience-firehose configure`",
    )
    ACCESS_DENIED = _Row(
        name="Access Denied",
        severity=Severity.FATAL,
        replayable=True,
        advice=(
            "the credentials lack a permission; attach what `audience-firehose policy` prints,"
            " check with `audience-firehose test`, then replay"
        ),
        failed_check=HealthCheck.PERMISSION,
        test_advice=(
            "firehose:DescribeDeliveryStream is denied, so nothing more can be checked. Delivery needs"
            " firehose:PutRecordBatch alone and may work all the same: attach what `audience-firehose policy`"
            " prints and test again, or `audience-firehose resume` the stream and see"
        ),
    )
    STREAM_NOT_FOUND = _Row(
        name="Stream Not Found",
        severity=Severity.FATAL,
        replayable=True,
        advice=(
            "there is no such delivery stream in this region and account; create it or correct the"
            " connection, check with `audience-firehose test`, then replay"
        ),
        failed_check=HealthCheck.STREAM,
        test_advice=(
            "there is no such stream in this region and account; create it, or connect the audience"
            " to another"
        ),
    )
    INVALID_REQUEST = _Row(
        name="Invalid Request",
        severity=Severity.FATAL,
        replayable=True,
        advice="Firehose refuses the request as it is; check the stream with `audience-firehose test`",
        failed_check=HealthCheck.STREAM,
        test_advice="Firehose refuses to describe it; check its name and region",
    )
    INVALID_CHANGE = _Row(
        name="Invalid Change",
        severity=Severity.WARNING,
        replayable=True,
        advice=(
            "tell the sender, whom the alert names; then discard the dead letter, or replay it where the"
            " settings here were wrong"
        ),
        failed_check=None,
    )
    RECORD_TOO_LARGE = _Row(
        name="Record Too Large",
        severity=Severity.WARNING,
        replayable=False,
        advice="Firehose never takes such a record; tell the sender, then discard the dead letter",
        failed_check=None,
    )
    WORKER_TROUBLE = _Row(
        name="Worker Trouble",
        severity=Severity.WARNING,
        replayable=True,
        advice=(
            "the worker that the alert names cannot deliver: check its network, certificates, credentials"
            " and clock; its batches stay in the broker and other workers take them"
        ),
        failed_check=HealthCheck.CREDENTIALS,
        test_advice="this machine's requests are not accepted; check its credentials and its clock",
    )
    NO_WORKERS = _Row(
        name="No Workers",
        severity=Severity.FATAL,
        replayable=True,
        advice="messages wait and no worker takes them; start workers: `celery -A worker worker`",
        failed_check=None,
    )

    @classmethod
    def named(cls, name: str) -> "AlertType | None":
        """The type of this name; None where this version knows none."""
        return next((alert_type for alert_type in cls if alert_type == name), None)


class Failure(NamedTuple):
    """A failure, as alerts and logs report it. It holds no identity value and no secret."""

    alert_type: AlertType
    error_code: str
    """The code or exception name that Firehose or botocore gives it."""
    message: str
    """The event and the next step."""
    aws_message: str | None = None
    """AWS's own error text, where it holds no record."""
    request_id: str | None = None
    """AWS's ID of the request that failed."""

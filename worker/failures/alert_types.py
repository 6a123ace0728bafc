"""What failed, in words that may be shown to anybody: no identity value, no secret."""

from enum import StrEnum
from typing import NamedTuple


class AlertType(StrEnum):
    """The closed set of alerts."""

    INTERNAL_SERVER_ERROR = "500 - Internal Server Error"
    RETRY_LIMIT_EXCEEDED = "Retry Limit Exceeded"
    INVALID_CREDENTIALS = "Invalid Credentials"
    ACCESS_DENIED = "Access Denied"
    STREAM_NOT_FOUND = "Stream Not Found"
    INVALID_REQUEST = "Invalid Request"
    INVALID_CHANGE = "Invalid Change"
    RECORD_TOO_LARGE = "Record Too Large"
    WORKER_TROUBLE = "Worker Trouble"
    NO_WORKERS = "No Workers"


class Severity(StrEnum):
    """Whether records wait for an operator."""

    WARNING = "warning"
    FATAL = "fatal"


WARNINGS = {
    AlertType.INTERNAL_SERVER_ERROR,
    AlertType.INVALID_CHANGE,
    AlertType.RECORD_TOO_LARGE,
    AlertType.WORKER_TROUBLE,
}


def severity(alert_type: AlertType) -> Severity:
    """How bad an alert of this type is."""
    return Severity.WARNING if alert_type in WARNINGS else Severity.FATAL


class Failure(NamedTuple):
    """One failure, as alerts and logs tell it."""

    alert_type: AlertType
    error_code: str
    """Firehose's or botocore's own name for it."""
    message: str
    """What happened and what to do."""

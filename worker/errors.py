"""Everything that can go wrong, from an operator's point of view.

    AudienceFirehoseError
    ├── SettingError            an environment variable does not say what it should
    ├── OperatorError           a command cannot be carried out as given
    │   ├── InvalidSettings     a configuration or a connection that cannot be
    │   ├── NotRegistered       no such configuration, connection, alert or dead letter
    │   ├── UnknownFormat       a file of changes that holds no JSON lines
    │   └── NotReplayable       sending a dead letter again cannot succeed
    ├── SecretKeyError          a stored secret cannot be made or opened
    ├── EndpointError           AWS_ENDPOINT_URL_FIREHOSE is no URL
    ├── CredentialsError        this worker cannot get AWS credentials
    ├── WrongTypeError          a key of the broker is of another type than its name says
    └── DeliveryError           Firehose did not take a batch
        ├── TransientError      worth another try
        ├── PermanentError      it will not heal by trying again
        └── WorkerTroubleError  this worker could not send it, but another one may

No message holds an identity value or a secret. Records travel beside an error in
`remaining`, never in its arguments.
"""

from typing import Any

from worker.failures.alert_types import Failure


class AudienceFirehoseError(Exception):
    """The root of them all."""


class SettingError(AudienceFirehoseError):
    """An environment variable does not say what it should."""


class OperatorError(AudienceFirehoseError):
    """A command cannot be carried out as given. The message says what to do next."""


class InvalidSettings(OperatorError):
    """A configuration or a connection that cannot be."""


class NotRegistered(OperatorError):
    """There is no such configuration, connection, alert or dead letter."""


class UnknownFormat(OperatorError):
    """A file of changes holds neither JSON lines in UTF-8 nor gzip of them."""


class SecretKeyError(AudienceFirehoseError):
    """A stored secret cannot be made or opened: AUDIENCE_SECRET_KEY is missing or not the right one."""


class EndpointError(AudienceFirehoseError):
    """There can be no client: AWS_ENDPOINT_URL_FIREHOSE is no URL."""


class CredentialsError(AudienceFirehoseError):
    """This worker cannot get AWS credentials. Another worker may have them."""

    def __init__(self, error_code: str, cause: str) -> None:
        super().__init__(error_code, cause)
        self.error_code = error_code
        """The name of the error that botocore or the operating system raised."""
        self.cause = cause

    def __str__(self) -> str:
        return f"{self.error_code}: {self.cause}"


class WrongTypeError(AudienceFirehoseError):
    """A key of the broker is of another type than its name says: somebody else has written it."""


class DeliveryError(AudienceFirehoseError):
    """Firehose did not take a batch, or not all of it."""

    def __init__(
        self, failure: Failure, remaining: list[Any] | None = None, *, accepted: int = 0, refused: int = 0
    ) -> None:
        super().__init__(failure)
        self.failure = failure
        self.remaining = remaining
        """The groups still to be delivered; None stands for all that were to be."""
        self.accepted = accepted
        """Records that Firehose took all the same."""
        self.refused = refused
        """Records that it did not take."""

    def __str__(self) -> str:
        return f"{self.failure.error_code}: {self.failure.message}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Celery hands errors from process to process; the records stay where they are."""
        return type(self), (self.failure,)


class TransientError(DeliveryError):
    """Worth another try, later and with what remains."""


class PermanentError(DeliveryError):
    """It will not heal by trying again."""


class WorkerTroubleError(DeliveryError):
    """This worker cannot reach Firehose, have credentials or keep its clock. Another worker may."""

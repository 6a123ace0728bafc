"""What an error means: worth another try, or an operator's turn. Pure, and tested by a table."""

from typing import NamedTuple

from botocore import exceptions as botocore
from botocore.parsers import ResponseParserError

from worker.errors import EndpointError, SecretKeyError
from worker.failures.alert_types import AlertType, Failure


class Classification(NamedTuple):
    """A failure, and what to do about it."""

    failure: Failure
    transient: bool
    renew_client: bool = False
    """The credentials of the client are no good; a new client fetches new ones."""


TRANSIENT_CODES = {
    "ServiceUnavailableException",
    "ServiceUnavailable",
    "InternalFailure",
    "InternalServerError",
    "InternalError",
    "SlowDown",
    "RequestLimitExceeded",
    "LimitExceededException",
    "TooManyRequestsException",
    "RequestExpired",
    "ConcurrentModificationException",
}
RETRY_STATUS = {429, *range(500, 600)}
THROTTLING_PREFIX = "Throttl"
TRANSIENT_PREFIXES = (THROTTLING_PREFIX, "RequestTimeout")
EXPIRED_CODES = {"ExpiredTokenException", "ExpiredToken"}
PERMANENT_CODES = {
    "ResourceNotFoundException": AlertType.STREAM_NOT_FOUND,
    "UnrecognizedClientException": AlertType.INVALID_CREDENTIALS,
    "InvalidClientTokenId": AlertType.INVALID_CREDENTIALS,
    "InvalidSignatureException": AlertType.INVALID_CREDENTIALS,
    "SignatureDoesNotMatch": AlertType.INVALID_CREDENTIALS,
    "IncompleteSignature": AlertType.INVALID_CREDENTIALS,
    "IncompleteSignatureException": AlertType.INVALID_CREDENTIALS,
    "MissingAuthenticationToken": AlertType.INVALID_CREDENTIALS,
    "MissingAuthenticationTokenException": AlertType.INVALID_CREDENTIALS,
    "OptInRequired": AlertType.INVALID_CREDENTIALS,
}
ACCESS_DENIED_PREFIX = "AccessDenied"

TRANSIENT_ERRORS = (
    botocore.HTTPClientError,
    botocore.ConnectionError,
    botocore.CredentialRetrievalError,
    botocore.MetadataRetrievalError,
    botocore.IncompleteReadError,
    ResponseParserError,
)
"""No answer, an answer cut short, or credentials that could not be fetched just now."""
FIREHOSE_ERRORS = (
    botocore.BotoCoreError,
    botocore.ClientError,
    ResponseParserError,
    SecretKeyError,
    EndpointError,
)
"""All that a client, or making one, raises and `verdict` judges."""
CREDENTIAL_ERRORS = (botocore.NoCredentialsError, botocore.PartialCredentialsError, SecretKeyError)

THROTTLED = (
    "the stream is throttled: it is at its quota; delivery is tried again with growing pauses,"
    " and AWS can raise the limit (a Firehose quota increase) if this goes on"
)


def classify(error: Exception) -> Classification:
    """What this error of a Firehose call means."""
    if isinstance(error, botocore.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return of_code(error.response.get("Error", {}).get("Code", "Unknown"), status)
    name = type(error).__name__
    # An SSLError is a ConnectionError to botocore, but no certificate heals by waiting.
    if isinstance(error, TRANSIENT_ERRORS) and not isinstance(error, botocore.SSLError):
        return _transient(name)
    if isinstance(error, CREDENTIAL_ERRORS):
        return _permanent(AlertType.INVALID_CREDENTIALS, name)
    return _permanent(AlertType.INVALID_REQUEST, name)


def of_code(code: str, status: int = 200) -> Classification:
    """What an error code of Firehose means, of a whole call or of one record in it."""
    if code in EXPIRED_CODES:
        return _transient(code)._replace(renew_client=True)
    if code in TRANSIENT_CODES or code.startswith(TRANSIENT_PREFIXES) or status in RETRY_STATUS:
        return _transient(code)
    if code.startswith(ACCESS_DENIED_PREFIX):
        return _permanent(AlertType.ACCESS_DENIED, code)
    return _permanent(PERMANENT_CODES.get(code, AlertType.INVALID_REQUEST), code)


def is_throttling(code: str) -> bool:
    """Whether a code says that the stream is at its quota."""
    return code in {
        "ServiceUnavailableException",
        "SlowDown",
        "RequestLimitExceeded",
        "LimitExceededException",
        "TooManyRequestsException",
    } or code.startswith(THROTTLING_PREFIX)


def _transient(code: str) -> Classification:
    advice = THROTTLED if is_throttling(code) else AlertType.INTERNAL_SERVER_ERROR.advice
    return Classification(Failure(AlertType.INTERNAL_SERVER_ERROR, code, advice), transient=True)


def _permanent(alert_type: AlertType, code: str) -> Classification:
    # Credentials that an operator mends outside of us, in a file or a role, are looked for again.
    renew = alert_type is AlertType.INVALID_CREDENTIALS
    return Classification(Failure(alert_type, code, alert_type.advice), transient=False, renew_client=renew)

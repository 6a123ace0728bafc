"""The classification of an error of a Firehose call. Pure, and tested by a table.

Doubt is transient. Permanent is only what AWS itself said about this stream or these credentials, with an
AWS error code in an AWS error body. Whatever this worker could not do (connect, shake hands, get credentials,
keep its clock) is trouble of this worker: other workers deliver what it could not.
"""

import errno
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from botocore import exceptions as botocore
from botocore.parsers import ResponseParserError

from schemas.settings import Configuration
from worker.errors import CredentialsError, EndpointError, SecretKeyError
from worker.failures.alert_types import AlertType, Failure
from worker.firehose.answers import MALFORMED_RESPONSE
from worker.firehose.credentials import cause


class Kind(StrEnum):
    """The handling of a batch that met an error."""

    TRANSIENT = "transient"
    """It is sent again later, and the stream's circuit breaker opens."""
    PERMANENT = "permanent"
    """It becomes a dead letter, and the stream is paused."""
    WORKER_TROUBLE = "worker trouble"
    """It is requeued as it was, for other workers, and this worker pauses."""


class Classification(NamedTuple):
    """A failure, and what to do about it."""

    failure: Failure
    kind: Kind
    renew_client: bool = False
    """Whether the client's credentials are of no use any more; a new client fetches new ones."""

    @property
    def transient(self) -> bool:
        """Whether the batch is to be sent again later."""
        return self.kind is Kind.TRANSIENT


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
    "ConcurrentModificationException",
}
RETRY_STATUS = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
    *range(500, 600),
}
"""Answers that are about this call or the service, whoever gives them. Any other answer that is not AWS's own
comes from something between this worker and Firehose."""
RETRY_AWS_STATUS = {HTTPStatus.TOO_MANY_REQUESTS, *range(500, 600)}
"""Answers of AWS that are worth another try whatever their code."""
THROTTLING_PREFIX = "Throttl"
TRANSIENT_PREFIXES = (THROTTLING_PREFIX, "RequestTimeout")
CLOCK_CODES = {"RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"}
SIGNATURE_CODES = {"InvalidSignatureException", "SignatureDoesNotMatch"}
CLOCK_TEXTS = ("Signature expired", "Signature not yet current")
"""Parts of a signature error's text if the clock is wrong and not the key."""
WRONG_SERVICE_CODES = {"UnknownOperationException", "UnknownOperation", "InvalidAction"}
WRONG_SCOPE_TEXT = "Credential should be scoped to"
"""Part of a signature error's text if the call went to another service or region."""
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
    "InvalidArgumentException": AlertType.INVALID_REQUEST,
    "InvalidKMSResourceException": AlertType.INVALID_REQUEST,
    "InvalidSourceException": AlertType.INVALID_REQUEST,
    "SerializationException": AlertType.INVALID_REQUEST,
    "ValidationException": AlertType.INVALID_REQUEST,
}
ACCESS_DENIED_PREFIX = "AccessDenied"
ASSUME_ROLE = "AssumeRole"
"""The operation of AWS STS that takes on a configuration's role."""
ANSWERS_ABOUT_STREAMS = {"DescribeDeliveryStream", "PutRecord", "PutRecordBatch", ASSUME_ROLE}
"""Operations whose refusal is the same for every worker. The others get this machine's own credentials."""
CODE = re.compile(r"[A-Za-z][A-Za-z0-9.-]*")
"""botocore puts the HTTP status in the place of a code that the body does not hold."""

TROUBLE_ERRORS = (
    botocore.ConnectTimeoutError,
    botocore.EndpointConnectionError,
    botocore.ProxyConnectionError,
    botocore.SSLError,
    botocore.CredentialRetrievalError,
    botocore.InvalidProxiesConfigError,
    botocore.MetadataRetrievalError,
    botocore.NoCredentialsError,
    botocore.PartialCredentialsError,
    botocore.ProfileNotFound,
    CredentialsError,
    EndpointError,
    SecretKeyError,
)
"""Errors before anything was sent: this worker cannot connect, or has no credentials."""
FIREHOSE_ERRORS = (
    botocore.BotoCoreError,
    botocore.ClientError,
    ResponseParserError,
    CredentialsError,
    EndpointError,
    SecretKeyError,
)
"""All that a client, or making one, raises and `classify` judges."""
CERTIFICATE_TEXT = "CERTIFICATE_VERIFY_FAILED"
BUNDLE_TEXTS = (
    "invalid path",
    *(f"[Errno {number}]" for number in (errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOTDIR)),
    "[X509: ",
    "[PEM: ",
)
"""Parts of an SSL error that the file of trusted certificates causes. All others are about the handshake."""

TRIED_AGAIN = "; delivery is tried again with growing pauses"
"""The end of a failure's message while retries are left."""
THROTTLED = (
    f"the stream is throttled: it is at its quota{TRIED_AGAIN};"
    " AWS can raise the limit (a Firehose quota increase) if this goes on"
)
ROLE_DENIED = (
    "the role may not be assumed: its trust policy must name whose credentials it is assumed with and the"
    " configuration's external ID, and their own policy must allow sts:AssumeRole on it"
)
NOT_FIREHOSE = (
    "this is not Firehose; check AWS_ENDPOINT_URL_FIREHOSE, the connection's region and the worker's proxy"
)
SESSION_EXPIRED = (
    "the stored session token has expired, and nothing here can renew it; give a new key and token with"
    " `audience-firehose configure --session-token-stdin`, check with `audience-firehose test`, then replay"
)
UNREACHABLE = (
    "Firehose cannot be reached from this worker; check its network, a proxy, and AWS_ENDPOINT_URL_FIREHOSE"
)
HANDSHAKE_CUT = "the TLS handshake with Firehose was cut off; check the network and a proxy of this worker"
UNTRUSTED = "the certificate of what answers is not trusted; check AWS_CA_BUNDLE and a proxy of this worker"
NO_BUNDLE = "the CA bundle cannot be read; check AWS_CA_BUNDLE of this worker"
NO_CREDENTIALS = "AWS credentials cannot be had"
MALFORMED = (
    f"the answer does not say what became of the records: they may have arrived{TRIED_AGAIN} a few times"
)
SHOWN_CODES = (
    "AccessDenied",
    "ExpiredToken",
    "InvalidKMS",
    "InvalidSource",
    "Limit",
    "Resource",
    "Service",
    "Throttl",
)
"""Beginnings of the codes whose text holds nothing of a request."""
SHOWN_CHARACTERS = 400


def classify(error: Exception, now: datetime | None = None) -> Classification:
    """Classify an error of a Firehose call; `now` is this worker's clock."""
    if isinstance(error, botocore.ClientError):
        return _of_answer(error, now or datetime.now(UTC))
    code = error.error_code if isinstance(error, CredentialsError) else type(error).__name__
    if isinstance(error, TROUBLE_ERRORS):
        return _trouble(code, _trouble_text(error))
    return _transient(code)


def of_code(code: str, status: int = 200) -> Classification:
    """Classify an error code of AWS, of a whole call or of one record in it."""
    if code == MALFORMED_RESPONSE:
        return _transient(code, MALFORMED)
    if code in EXPIRED_CODES:
        return _transient(code)._replace(renew_client=True)
    if code in TRANSIENT_CODES or code.startswith(TRANSIENT_PREFIXES) or status in RETRY_AWS_STATUS:
        return _transient(code)
    if code.startswith(ACCESS_DENIED_PREFIX):
        return _permanent(AlertType.ACCESS_DENIED, code)
    return _permanent(PERMANENT_CODES.get(code, AlertType.INVALID_REQUEST), code)


def reclassify_expired(
    found: Classification, error: Exception, configuration: Configuration
) -> Classification:
    """Expired credentials that were stored with a session token cannot be renewed here: that is permanent.

    Those of a role that was assumed with them can, until assuming it says that the token has expired.
    """
    is_expired = found.failure.error_code in EXPIRED_CODES
    is_assumed = configuration.role_arn and getattr(error, "operation_name", None) != ASSUME_ROLE
    if not is_expired or not configuration.session_token or is_assumed:
        return found
    permanent = _permanent(AlertType.INVALID_CREDENTIALS, str(found.failure.error_code))
    return permanent._replace(failure=permanent.failure._replace(message=SESSION_EXPIRED))


def is_throttling(code: str) -> bool:
    """Whether a code says that the stream is at its quota."""
    return code in {
        "ServiceUnavailableException",
        "SlowDown",
        "RequestLimitExceeded",
        "LimitExceededException",
        "TooManyRequestsException",
    } or code.startswith(THROTTLING_PREFIX)


def host_of(url: str) -> str:
    """The scheme, host and port of a URL, without a password that it may hold."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"


def _of_answer(error: botocore.ClientError, now: datetime) -> Classification:
    """Classify an answer that is no success. botocore makes a `ClientError` of any server's answer."""
    code, text = error.response.get("Error", {}).get("Code", ""), _text(error)
    status = int(_metadata(error).get("HTTPStatusCode", 0))
    if not _is_of_aws(code, _metadata(error)):
        return _of_stranger(status)
    if code in CLOCK_CODES or (code in SIGNATURE_CODES and any(sign in text for sign in CLOCK_TEXTS)):
        return _trouble(code, _clock_text(_metadata(error), now))
    if code in WRONG_SERVICE_CODES or (code in SIGNATURE_CODES and WRONG_SCOPE_TEXT in text):
        return _trouble(code, NOT_FIREHOSE)
    if error.operation_name not in ANSWERS_ABOUT_STREAMS:
        return _trouble(code, f"{NO_CREDENTIALS}: AWS refuses {error.operation_name}")
    found = of_code(code, status)
    if error.operation_name == ASSUME_ROLE and found.failure.alert_type is AlertType.ACCESS_DENIED:
        found = found._replace(failure=found.failure._replace(message=ROLE_DENIED))
    return found._replace(failure=_with_aws_text(found.failure, error))


def _is_of_aws(code: str, metadata: Mapping[str, Any]) -> bool:
    """Whether AWS answered, and not a proxy, a captive portal or another server."""
    if not CODE.fullmatch(code) or code == "Unknown":
        return False
    headers = metadata.get("HTTPHeaders", {})
    if "html" in headers.get("content-type", ""):
        return False
    is_known = code in PERMANENT_CODES or code in WRONG_SERVICE_CODES or of_code(code).transient
    marks = (
        "x-amz-json" in headers.get("content-type", ""),
        "x-amzn-requestid" in headers,
        metadata.get("RequestId"),
    )
    return is_known or code.startswith(ACCESS_DENIED_PREFIX) or any(marks)


def _of_stranger(status: int) -> Classification:
    answered = f"HTTP {status}" + (f" {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else "")
    text = f"{answered} without an error of AWS: something between this worker and Firehose answered"
    if status in RETRY_STATUS:
        return _transient(f"HTTP {status}", f"{text}{TRIED_AGAIN}")
    return _trouble(f"HTTP {status}", f"{text}; check a proxy and AWS_ENDPOINT_URL_FIREHOSE of this worker")


def _clock_text(metadata: Mapping[str, Any], now: datetime) -> str:
    """By how much this worker's clock differs from AWS's, which the answer's head tells."""
    try:
        theirs = parsedate_to_datetime(metadata["HTTPHeaders"]["date"])
        difference = round((now - theirs).total_seconds() / 60)
    except (KeyError, TypeError, ValueError):
        return "this worker's clock differs from AWS's; set it by NTP"
    direction = "ahead of" if difference > 0 else "behind"
    return f"clock differs by {abs(difference)} minutes: it is {direction} AWS's; set it by NTP"


def _trouble_text(error: Exception) -> str:
    match error:
        case CredentialsError():
            return f"{NO_CREDENTIALS}: {error.cause}"
        case EndpointError() | SecretKeyError():
            return str(error)
        case botocore.SSLError():
            return f"{_tls_text(str(error))}{_where(error)}"
        case botocore.ConnectionError() | botocore.HTTPClientError():
            return f"{UNREACHABLE}{_where(error)}"
    return f"{NO_CREDENTIALS}: {cause(error)}"


def _tls_text(text: str) -> str:
    if CERTIFICATE_TEXT in text:
        return UNTRUSTED
    return NO_BUNDLE if any(sign in text for sign in BUNDLE_TEXTS) else HANDSHAKE_CUT


def _where(error: Exception) -> str:
    """The endpoint that an error is about, where botocore says so."""
    url = getattr(error, "kwargs", {}).get("endpoint_url")
    return f" (at {host_of(url)})" if url else ""


def _metadata(error: botocore.ClientError) -> Mapping[str, Any]:
    return error.response.get("ResponseMetadata", {})


def _text(error: botocore.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Message") or "")


def _with_aws_text(failure: Failure, error: botocore.ClientError) -> Failure:
    """The failure with AWS's own text, where that cannot hold a record, and with the request's ID."""
    text = _text(error)[:SHOWN_CHARACTERS] if failure.error_code.startswith(SHOWN_CODES) else ""
    return failure._replace(aws_message=text or None, request_id=_metadata(error).get("RequestId"))


def _transient(code: str, advice: str = "") -> Classification:
    usual = THROTTLED if is_throttling(code) else AlertType.INTERNAL_SERVER_ERROR.advice
    return Classification(Failure(AlertType.INTERNAL_SERVER_ERROR, code, advice or usual), Kind.TRANSIENT)


def _trouble(code: str, text: str) -> Classification:
    # Credentials, certificates and endpoints are looked for again: an operator may have corrected them.
    return Classification(
        Failure(AlertType.WORKER_TROUBLE, code, text), Kind.WORKER_TROUBLE, renew_client=True
    )


def _permanent(alert_type: AlertType, code: str) -> Classification:
    # Credentials that an operator corrects outside of us, in a file or a role, are looked for again.
    renew = alert_type is AlertType.INVALID_CREDENTIALS
    return Classification(Failure(alert_type, code, alert_type.advice), Kind.PERMANENT, renew_client=renew)

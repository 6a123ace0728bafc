"""What DescribeDeliveryStream says of a stream, as a list of checks. Pure, and tested by a table."""

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from botocore import exceptions as botocore

from schemas.settings import Configuration
from worker.errors import EndpointError, SecretKeyError
from worker.failures.alert_types import HealthCheck
from worker.firehose.clients import Clients
from worker.firehose.errors import EXPIRED_CODES, FIREHOSE_ERRORS, of_code
from worker.queues import Stream

DIRECT_PUT = "DirectPut"
ACTIVE = "ACTIVE"
ASSUME_ROLE = "AssumeRole"
"""The operation of AWS STS that takes on a configuration's role."""


class Check(NamedTuple):
    """One thing that must hold before a stream can take records."""

    name: str
    ok: bool
    message: str
    """What was found; where it is not ok, what to do."""


ENDPOINT = Check(HealthCheck.ENDPOINT, True, "Firehose answers")
CREDENTIALS = Check(HealthCheck.CREDENTIALS, True, "accepted")
PERMISSION = Check(HealthCheck.PERMISSION, True, "firehose:DescribeDeliveryStream is allowed")
EXISTS = Check(HealthCheck.STREAM, True, "it exists")
ANSWERED = (ENDPOINT, CREDENTIALS, PERMISSION, EXISTS)
"""What has held once Firehose describes a stream, in the order in which each can fail."""

ADVICE_BY_STATUS = {
    "CREATING": "AWS is still making the stream; wait a minute and test again",
    "CREATING_FAILED": "AWS could not make the stream; see its FailureDescription, and create it anew",
    "DELETING": "the stream is being deleted; create it anew, or connect the audience to another one",
    "DELETING_FAILED": "deleting the stream has failed; finish that in AWS, then create it anew",
}
"""Source: DeliveryStreamStatus, AWS API reference."""

EXPIRED = "they have expired; renew them, in the configuration or in the environment"
ROLE_REFUSED = (
    "the role cannot be assumed; its trust policy must name whose credentials it is assumed with, and its"
    " external ID must be the configuration's"
)
NO_CREDENTIALS = (
    "there are none; give the configuration an access key or a role with `audience-firehose configure`, or"
    " this machine credentials of its own"
)
HALF_A_KEY = "the environment has one half of an access key; set its ID and its secret"
NOT_FETCHED = "the environment's credentials could not be fetched; try again"
UNTRUSTED = "its certificate is not trusted; check for a proxy, and AWS_CA_BUNDLE"
UNREACHABLE = (
    "it cannot be reached; check the network, a proxy, the connection's region, and"
    " AWS_ENDPOINT_URL_FIREHOSE where that is set"
)
NO_FIREHOSE = "the answer makes no sense; check AWS_ENDPOINT_URL_FIREHOSE and the AWS_… settings"

PROBLEMS: tuple[tuple[type[Exception], Check, str], ...] = (
    (botocore.NoCredentialsError, CREDENTIALS, NO_CREDENTIALS),
    (botocore.PartialCredentialsError, CREDENTIALS, HALF_A_KEY),
    (botocore.CredentialRetrievalError, CREDENTIALS, NOT_FETCHED),
    (botocore.MetadataRetrievalError, CREDENTIALS, NOT_FETCHED),
    # To botocore an SSLError is a ConnectionError, so it stands first.
    (botocore.SSLError, ENDPOINT, UNTRUSTED),
    (botocore.ConnectionError, ENDPOINT, UNREACHABLE),
    (botocore.HTTPClientError, ENDPOINT, UNREACHABLE),
)


def inspect(clients: Clients, configuration: Configuration, stream: Stream) -> list[Check]:
    """Ask Firehose about a stream, with a configuration's credentials."""
    try:
        client = clients.get(configuration, stream.region)
        response = client.describe_delivery_stream(DeliveryStreamName=stream.name)
    except FIREHOSE_ERRORS as error:
        return of_error(error)
    description = response.get("DeliveryStreamDescription")
    return of_description(description) if description else _up_to(ENDPOINT, NO_FIREHOSE)


def of_description(description: Mapping[str, Any]) -> list[Check]:
    """The checks of a stream that Firehose describes."""
    return [*ANSWERED, _source(description), _status(description)]


def of_error(error: Exception) -> list[Check]:
    """The checks up to the one that failed, where the stream could not be described."""
    if isinstance(error, SecretKeyError):
        return _up_to(CREDENTIALS, str(error))
    if isinstance(error, EndpointError):
        return _up_to(ENDPOINT, str(error))
    if isinstance(error, botocore.ClientError):
        return _of_refusal(error)
    name = type(error).__name__
    for kind, check, advice in PROBLEMS:
        if isinstance(error, kind):
            return _up_to(check, f"{name}{_where(error)}: {advice}")
    return _up_to(ENDPOINT, f"{name}: {NO_FIREHOSE}")


def _of_refusal(error: botocore.ClientError) -> list[Check]:
    code = error.response.get("Error", {}).get("Code", "Unknown")
    found = of_code(code, error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    alert_type = found.failure.alert_type
    failed = alert_type.failed_check or HealthCheck.ENDPOINT
    check, advice = next(check for check in ANSWERED if check.name == failed), alert_type.test_advice
    if code in EXPIRED_CODES:
        check, advice = CREDENTIALS, EXPIRED
    elif error.operation_name == ASSUME_ROLE and not found.transient:
        check, advice = CREDENTIALS, ROLE_REFUSED
    return _up_to(check, f"{code}: {advice}")


def _up_to(check: Check, problem: str) -> list[Check]:
    """What has held before this check, and its failure.

    Where credentials are missing nothing was sent, and no endpoint has answered.
    """
    before = ANSWERED[: ANSWERED.index(check)] if check not in (ENDPOINT, CREDENTIALS) else ()
    return [*before, Check(check.name, False, problem)]


def _where(error: Exception) -> str:
    """The endpoint that an error is about, where botocore says so."""
    url = getattr(error, "kwargs", {}).get("endpoint_url")
    if not url:
        return ""
    parts = urlsplit(url)
    # Without a password that may stand in it.
    return f" at {parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"


def _source(description: Mapping[str, Any]) -> Check:
    source = str(description.get("DeliveryStreamType", "unknown"))
    if source == DIRECT_PUT:
        return Check(HealthCheck.SOURCE, True, source)
    return Check(
        HealthCheck.SOURCE,
        False,
        f"{source}: only a stream with the source Direct PUT can be sent to; make one",
    )


def _status(description: Mapping[str, Any]) -> Check:
    status = str(description.get("DeliveryStreamStatus", "unknown"))
    if status == ACTIVE:
        return Check(HealthCheck.STATUS, True, status)
    advice = ADVICE_BY_STATUS.get(status, "the stream takes no records now; see it in AWS")
    return Check(HealthCheck.STATUS, False, f"{status}: {advice}")

"""Checks a stream by DescribeDeliveryStream. Reading the answer is pure, and tested by a table."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from botocore import exceptions as botocore

from schemas.settings import Configuration
from worker.errors import CredentialsError, SecretKeyError
from worker.failures.alert_types import AlertType, Failure, HealthCheck
from worker.firehose.clients import Clients
from worker.firehose.errors import (
    ASSUME_ROLE,
    CLOCK_CODES,
    EXPIRED_CODES,
    FIREHOSE_ERRORS,
    SIGNATURE_CODES,
    Classification,
    Kind,
    classify,
)
from worker.queues import Stream

DIRECT_PUT = "DirectPut"
ACTIVE = "ACTIVE"


class Check(NamedTuple):
    """Something that must hold before a stream can take records."""

    name: str
    ok: bool
    message: str
    """The finding; where the check failed, what to do."""
    is_of_machine: bool = False
    """Whether it failed for want of something on this machine, which workers may have."""


ENDPOINT = Check(HealthCheck.ENDPOINT, True, "Firehose answers")
CREDENTIALS = Check(HealthCheck.CREDENTIALS, True, "accepted")
PERMISSION = Check(HealthCheck.PERMISSION, True, "firehose:DescribeDeliveryStream is allowed")
EXISTS = Check(HealthCheck.STREAM, True, "it exists")
ANSWERED = (ENDPOINT, CREDENTIALS, PERMISSION, EXISTS)
"""The checks that hold once Firehose describes a stream, in the order in which each can fail."""

ADVICE_BY_STATUS = {
    "CREATING": "AWS is still making the stream; wait a minute and test again",
    "CREATING_FAILED": "AWS could not make the stream; see its FailureDescription, and create it anew",
    "DELETING": "the stream is being deleted; create it anew, or connect the audience to another one",
    "DELETING_FAILED": "deleting the stream has failed; finish that in AWS, then create it anew",
}
"""Source: DeliveryStreamStatus, AWS API reference."""

EXPIRED = "they have expired; renew them, in the configuration or in the environment"
ROLE_REFUSED = (
    "the role cannot be assumed; its trust policy must name whose credentials it is assumed with and the"
    " configuration's external ID, and their own policy must allow sts:AssumeRole on it"
)
NO_FIREHOSE = "the answer makes no sense; check AWS_ENDPOINT_URL_FIREHOSE and the AWS_… settings"
CREDENTIAL_ERRORS = (
    botocore.CredentialRetrievalError,
    botocore.MetadataRetrievalError,
    botocore.NoCredentialsError,
    botocore.PartialCredentialsError,
    botocore.ProfileNotFound,
    CredentialsError,
    SecretKeyError,
)

ENCRYPTED = "ENABLED"
NOT_ENCRYPTED = "DISABLED"
CUSTOMER_MANAGED = "CUSTOMER_MANAGED_CMK"
"""Source: DeliveryStreamEncryptionConfiguration, AWS API reference."""
ENCRYPTION_CHANGES = {"ENABLING", "DISABLING"}

CREATING = Classification(
    Failure(
        AlertType.INTERNAL_SERVER_ERROR,
        "ResourceNotFoundException",
        "the stream is still being created; delivery is tried again with growing pauses",
    ),
    Kind.TRANSIENT,
)
"""A stream that is being created is not found either, but will be in a minute."""


def inspect(clients: Clients, configuration: Configuration, stream: Stream) -> list[Check]:
    """Ask Firehose about a stream, with a configuration's credentials."""
    try:
        description = describe(clients, configuration, stream)
    except FIREHOSE_ERRORS as error:
        return of_error(error)
    return of_description(description) if description else _failed_at(ENDPOINT, NO_FIREHOSE)


def describe(clients: Clients, configuration: Configuration, stream: Stream) -> Mapping[str, Any]:
    """Firehose's description of a stream; empty where the answer holds none. Raises botocore's errors."""
    client = clients.get(configuration, stream.region)
    try:
        answer = client.describe_delivery_stream(DeliveryStreamName=stream.name)
    except (AttributeError, KeyError, TypeError, ValueError):
        # botocore's parser met JSON that is no object, or whose members have other types.
        return {}
    return answer.get("DeliveryStreamDescription") or {} if answer else {}


def of_description(description: Mapping[str, Any]) -> list[Check]:
    """The checks of a stream that Firehose describes."""
    return [*ANSWERED, _source(description), _status(description), *_encryption(description)]


def of_error(error: Exception) -> list[Check]:
    """The checks up to the one that failed, where the stream could not be described."""
    if isinstance(error, botocore.ClientError):
        return _of_refusal(error)
    found = classify(error)
    check = CREDENTIALS if isinstance(error, CREDENTIAL_ERRORS) else ENDPOINT
    return _up_to(check, found)


def is_passed(checks: Sequence[Check]) -> bool:
    """Whether each check that was made is ok."""
    return all(check.ok for check in checks)


def verdict(checks: Sequence[Check], stream: Stream) -> str:
    """A sentence about a stream that has not passed."""
    if any(check.is_of_machine for check in checks):
        return (
            f"this machine cannot ask Firehose about {stream.name} in {stream.region}; that says nothing"
            " about the stream: workers may have what it lacks"
        )
    return f"{stream.name} in {stream.region} cannot be delivered to as it is"


def key_arn(description: Mapping[str, Any]) -> str | None:
    """The customer-managed key that a stream is encrypted with; None where it is not."""
    encryption = description.get("DeliveryStreamEncryptionConfiguration") or {}
    is_customers = encryption.get("KeyType") == CUSTOMER_MANAGED
    return encryption.get("KeyARN") if is_customers and encryption.get("Status") != NOT_ENCRYPTED else None


def reclassify_missing(
    found: Classification, clients: Clients, configuration: Configuration, stream: Stream
) -> Classification:
    """Ask Firehose about a stream that it did not find: one that is being created is worth another try.

    The classification stays where Firehose does not answer the question. If that is transient, another try
    asks again: DescribeDeliveryStream takes 5 calls a second, which a backlog soon exceeds.
    """
    try:
        description = describe(clients, configuration, stream)
    except FIREHOSE_ERRORS as error:
        unsaid = classify(error)
        return found if unsaid.kind is Kind.PERMANENT else unsaid
    return CREATING if description.get("DeliveryStreamStatus") == "CREATING" else found


def _of_refusal(error: botocore.ClientError) -> list[Check]:
    found = classify(error)
    code = found.failure.error_code
    if found.kind is Kind.WORKER_TROUBLE or code.startswith("HTTP "):
        is_clock = code in CLOCK_CODES | SIGNATURE_CODES
        return _up_to(CREDENTIALS if is_clock else ENDPOINT, found)
    alert_type = found.failure.alert_type
    failed = alert_type.failed_check or HealthCheck.ENDPOINT
    check, advice = next(check for check in ANSWERED if check.name == failed), alert_type.test_advice
    if code in EXPIRED_CODES:
        check, advice = CREDENTIALS, EXPIRED
    elif error.operation_name == ASSUME_ROLE and not found.transient:
        check, advice = CREDENTIALS, ROLE_REFUSED
    return _failed_at(check, f"{code}: {advice}")


def _up_to(check: Check, found: Classification) -> list[Check]:
    """The checks up to one that failed by an error."""
    problem = f"{found.failure.error_code}: {found.failure.message}"
    return _failed_at(check, problem, is_of_machine=found.kind is Kind.WORKER_TROUBLE)


def _failed_at(check: Check, problem: str, *, is_of_machine: bool = False) -> list[Check]:
    """The checks that hold before this one can fail, and its failure.

    If credentials are missing, nothing was sent, and no endpoint has answered.
    """
    before = ANSWERED[: ANSWERED.index(check)] if check not in (ENDPOINT, CREDENTIALS) else ()
    return [*before, Check(check.name, False, problem, is_of_machine)]


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


def _encryption(description: Mapping[str, Any]) -> list[Check]:
    """The check of the stream's encryption, where Firehose says anything about it."""
    encryption = description.get("DeliveryStreamEncryptionConfiguration") or {}
    status = encryption.get("Status")
    if not status:
        return []
    if status == NOT_ENCRYPTED:
        return [Check(HealthCheck.ENCRYPTION, True, status)]
    if status == ENCRYPTED:
        key = key_arn(description)
        needs = f" with {key}: kms:GenerateDataKey and kms:Decrypt on it are needed, and not checked"
        return [Check(HealthCheck.ENCRYPTION, True, status + (needs if key else ""))]
    if status in ENCRYPTION_CHANGES:
        return [
            Check(
                HealthCheck.ENCRYPTION, False, f"{status}: AWS is changing it; wait a minute and test again"
            )
        ]
    advice = "AWS could not change it; see its FailureDescription, correct the key and its policy in AWS"
    return [Check(HealthCheck.ENCRYPTION, False, f"{status}: {advice}")]

"""What a description, or an error in its place, says of a stream: a table."""

import pytest
from botocore import exceptions as botocore

from worker.errors import SecretKeyError
from worker.firehose.health import of_description, of_error


def refused(code, status=400, operation="DescribeDeliveryStream"):
    response = {
        "Error": {"Code": code, "Message": "AKIA-quoted"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return botocore.ClientError(response, operation)


URL = {"endpoint_url": "https://firehose.example", "error": "AKIA-quoted"}
BEFORE_PERMISSION = ["endpoint", "credentials"]

ERRORS = [
    (refused("ResourceNotFoundException"), [*BEFORE_PERMISSION, "permission"], "stream", "create it"),
    (refused("AccessDeniedException"), BEFORE_PERMISSION, "permission", "policy"),
    (refused("UnrecognizedClientException"), [], "credentials", "configure"),
    (refused("InvalidSignatureException", 403), [], "credentials", "configure"),
    (refused("ExpiredTokenException"), [], "credentials", "expired"),
    (refused("AccessDenied", 403, "AssumeRole"), [], "credentials", "trust policy"),
    (refused("ThrottlingException", 400, "AssumeRole"), [], "endpoint", "try again"),
    (refused("LimitExceededException"), [], "endpoint", "try again"),
    (refused("Whatever", 503), [], "endpoint", "try again"),
    (refused("InvalidArgumentException"), [*BEFORE_PERMISSION, "permission"], "stream", "name and region"),
    (SecretKeyError("no key"), [], "credentials", "no key"),
    (botocore.NoCredentialsError(), [], "credentials", "configure"),
    (botocore.PartialCredentialsError(provider="env", cred_var="x"), [], "credentials", "one half"),
    (botocore.CredentialRetrievalError(provider="x", error_msg="y"), [], "credentials", "try again"),
    (botocore.EndpointConnectionError(**URL), [], "endpoint", "https://firehose.example"),
    (botocore.ConnectTimeoutError(**URL), [], "endpoint", "network"),
    (botocore.SSLError(**URL), [], "endpoint", "AWS_CA_BUNDLE"),
    (botocore.ProfileNotFound(profile="x"), [], "endpoint", "settings"),
]


@pytest.mark.parametrize(("error", "held", "failed", "advice"), ERRORS, ids=lambda case: str(case)[:40])
def test_an_error_fails_one_check_and_says_what_to_do(error, held, failed, advice):
    *before, last = of_error(error)
    assert [check.name for check in before] == held
    assert all(check.ok for check in before)
    assert (last.name, last.ok) == (failed, False)
    assert advice in last.message
    assert "AKIA-quoted" not in last.message


DESCRIPTIONS = [
    ("DirectPut", "ACTIVE", set()),
    ("DirectPut", "CREATING", {"status"}),
    ("DirectPut", "CREATING_FAILED", {"status"}),
    ("DirectPut", "DELETING", {"status"}),
    ("DirectPut", "DELETING_FAILED", {"status"}),
    ("DirectPut", "SOMETHING_NEW", {"status"}),
    ("KinesisStreamAsSource", "ACTIVE", {"source"}),
    ("MSKAsSource", "ACTIVE", {"source"}),
    ("DatabaseAsSource", "CREATING", {"source", "status"}),
]


@pytest.mark.parametrize(("source", "status", "failed"), DESCRIPTIONS)
def test_a_description_must_say_direct_put_and_active(source, status, failed):
    checks = of_description({"DeliveryStreamType": source, "DeliveryStreamStatus": status})
    assert {check.name for check in checks if not check.ok} == failed
    assert len(checks) == 6


def test_waiting_is_the_advice_for_a_stream_that_is_being_created():
    *_, status = of_description({"DeliveryStreamType": "DirectPut", "DeliveryStreamStatus": "CREATING"})
    assert "wait" in status.message

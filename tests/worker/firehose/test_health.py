"""The checks that follow from a description, or from an error in its place: a table."""

import pytest
from botocore import exceptions as botocore

from worker.errors import CredentialsError, EndpointError, SecretKeyError
from worker.firehose.health import key_arn, of_description, of_error

AWS = {"content-type": "application/x-amz-json-1.1"}


def refused(code, status=400, operation="DescribeDeliveryStream", headers=AWS):
    response = {
        "Error": {"Code": code, "Message": "AKIA-quoted"},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
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
    (botocore.PartialCredentialsError(provider="env", cred_var="x"), [], "credentials", "missing: x"),
    (botocore.CredentialRetrievalError(provider="sso", error_msg="AKIA-quoted"), [], "credentials", "by sso"),
    (CredentialsError("FileNotFoundError", "No such file: /token"), [], "credentials", "/token"),
    (EndpointError("AWS_ENDPOINT_URL_FIREHOSE must be a URL"), [], "endpoint", "must be a URL"),
    (botocore.EndpointConnectionError(**URL), [], "endpoint", "https://firehose.example"),
    (botocore.ConnectTimeoutError(**URL), [], "endpoint", "network"),
    (botocore.SSLError(**URL), [], "endpoint", "handshake"),
    (botocore.ProfileNotFound(profile="lost"), [], "credentials", "lost"),
    (refused("403", 403, headers={"content-type": "text/html"}), [], "endpoint", "HTTP 403"),
    (refused("302", 302, headers={}), [], "endpoint", "HTTP 302"),
    (refused("UnknownOperationException"), [], "endpoint", "not Firehose"),
    (refused("RequestTimeTooSkewed", 403), [], "credentials", "clock"),
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


KEY = "arn:aws:kms:us-east-1:123456789012:key/0001"
ENCRYPTIONS = [
    ({"Status": "ENABLED", "KeyType": "CUSTOMER_MANAGED_CMK", "KeyARN": KEY}, True, KEY),
    ({"Status": "ENABLED", "KeyType": "AWS_OWNED_CMK"}, True, None),
    ({"Status": "DISABLED"}, True, None),
    ({"Status": "ENABLING", "KeyType": "CUSTOMER_MANAGED_CMK", "KeyARN": KEY}, False, KEY),
    ({"Status": "ENABLING_FAILED", "KeyType": "CUSTOMER_MANAGED_CMK", "KeyARN": KEY}, False, KEY),
    ({"Status": "DISABLING"}, False, None),
    ({"Status": "DISABLING_FAILED"}, False, None),
]


@pytest.mark.parametrize(("encryption", "ok", "key"), ENCRYPTIONS)
def test_encryption_must_be_on_or_off_and_a_customer_s_key_is_named(encryption, ok, key):
    description = {
        "DeliveryStreamType": "DirectPut",
        "DeliveryStreamStatus": "ACTIVE",
        "DeliveryStreamEncryptionConfiguration": encryption,
    }
    *_, check = of_description(description)
    assert (check.name, check.ok, key_arn(description)) == ("encryption", ok, key)


def test_nothing_is_said_of_an_encryption_that_firehose_does_not_mention():
    checks = of_description({"DeliveryStreamType": "DirectPut", "DeliveryStreamStatus": "ACTIVE"})
    assert "encryption" not in {check.name for check in checks}

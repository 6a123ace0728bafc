"""What each error means: worth another try, or an operator's turn."""

import pytest
from botocore import exceptions as botocore
from botocore.parsers import ResponseParserError

from worker.errors import SecretKeyError
from worker.firehose.errors import classify, of_code

TRANSIENT_CODES = [
    "ServiceUnavailableException",
    "InternalFailure",
    "InternalServerError",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "SlowDown",
    "RequestLimitExceeded",
    "LimitExceededException",
    "RequestTimeout",
    "RequestTimeoutException",
    "RequestExpired",
    "ExpiredTokenException",
]
PERMANENT_CODES = {
    "ResourceNotFoundException": "Stream Not Found",
    "InvalidArgumentException": "Invalid Request",
    "ValidationException": "Invalid Request",
    "InvalidKMSResourceException": "Invalid Request",
    "InvalidSourceException": "Invalid Request",
    "SerializationException": "Invalid Request",
    "SomethingNobodyHasHeardOf": "Invalid Request",
    "AccessDenied": "Access Denied",
    "AccessDeniedException": "Access Denied",
    "UnrecognizedClientException": "Invalid Credentials",
    "InvalidClientTokenId": "Invalid Credentials",
    "InvalidSignatureException": "Invalid Credentials",
    "IncompleteSignature": "Invalid Credentials",
    "IncompleteSignatureException": "Invalid Credentials",
    "SignatureDoesNotMatch": "Invalid Credentials",
    "MissingAuthenticationToken": "Invalid Credentials",
    "MissingAuthenticationTokenException": "Invalid Credentials",
}
URL = {"endpoint_url": "https://firehose"}
TRANSIENT_ERRORS = [
    botocore.EndpointConnectionError(**URL),
    botocore.ConnectTimeoutError(**URL),
    botocore.ReadTimeoutError(**URL),
    botocore.ConnectionClosedError(**URL),
    botocore.ProxyConnectionError(proxy_url="http://user:secretive@proxy"),
    botocore.HTTPClientError(error="secretive"),
    botocore.CredentialRetrievalError(provider="assume-role", error_msg="secretive"),
    botocore.MetadataRetrievalError(error_msg="secretive"),
    ResponseParserError("secretive"),
]
PERMANENT_ERRORS = [
    (botocore.SSLError(error="secretive", **URL), "Invalid Request"),
    (botocore.ParamValidationError(report="secretive"), "Invalid Request"),
    (botocore.NoRegionError(), "Invalid Request"),
    (botocore.InvalidRegionError(region_name="secretive"), "Invalid Request"),
    (botocore.NoCredentialsError(), "Invalid Credentials"),
    (
        botocore.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"),
        "Invalid Credentials",
    ),
    (SecretKeyError("secretive"), "Invalid Credentials"),
]


def client_error(code, status=400):
    answer = {
        "Error": {"Code": code, "Message": "secretive"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return botocore.ClientError(answer, "PutRecordBatch")


def name_of(value):
    return type(value).__name__ if isinstance(value, Exception) else None


@pytest.mark.parametrize("code", TRANSIENT_CODES)
@pytest.mark.parametrize("status", [200, 400, 403, 503])
def test_a_code_that_is_worth_another_try(code, status):
    found = classify(client_error(code, status))
    assert found.transient
    assert (found.failure.alert_type, found.failure.error_code) == ("500 - Internal Server Error", code)


@pytest.mark.parametrize(("code", "alert_type"), PERMANENT_CODES.items())
def test_a_code_that_will_not_heal(code, alert_type):
    found = classify(client_error(code))
    assert not found.transient
    assert (found.failure.alert_type, found.failure.error_code) == (alert_type, code)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 599])
def test_a_status_that_is_worth_another_try_whatever_the_code(status):
    assert classify(client_error("SomethingNobodyHasHeardOf", status)).transient


@pytest.mark.parametrize("error", TRANSIENT_ERRORS, ids=name_of)
def test_an_exception_that_is_worth_another_try(error):
    found = classify(error)
    assert found.transient
    assert found.failure.error_code == type(error).__name__


@pytest.mark.parametrize(("error", "alert_type"), PERMANENT_ERRORS, ids=name_of)
def test_an_exception_that_will_not_heal(error, alert_type):
    found = classify(error)
    assert not found.transient
    assert (found.failure.alert_type, found.failure.error_code) == (alert_type, type(error).__name__)


@pytest.mark.parametrize(
    "error",
    [client_error("ValidationException"), *TRANSIENT_ERRORS, *(error for error, _ in PERMANENT_ERRORS)],
    ids=name_of,
)
def test_what_aws_and_botocore_say_is_not_repeated(error):
    assert "secretive" not in repr(classify(error))


def test_only_expired_credentials_need_a_new_client():
    assert of_code("ExpiredTokenException").renew_client
    assert of_code("ExpiredToken").renew_client
    assert of_code("UnrecognizedClientException").renew_client
    assert not of_code("InternalFailure").renew_client
    assert not of_code("AccessDeniedException").renew_client


@pytest.mark.parametrize(
    "code", ["ServiceUnavailableException", "ThrottlingException", "LimitExceededException", "SlowDown"]
)
def test_of_throttling_it_is_said_that_the_limit_can_be_raised(code):
    assert "AWS can raise the limit" in of_code(code).failure.message


def test_of_an_outage_it_is_not():
    assert "limit" not in of_code("InternalFailure").failure.message


@pytest.mark.parametrize(
    "code", ["UnrecognizedClientException", "AccessDeniedException", "ResourceNotFoundException"]
)
def test_a_permanent_failure_says_what_to_do(code):
    assert "`audience-firehose " in of_code(code).failure.message

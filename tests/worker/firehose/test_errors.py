"""Which errors are transient, which permanent, and which are trouble of the worker alone."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from botocore import exceptions as botocore
from botocore.parsers import ResponseParserError

from schemas.settings import Configuration
from worker.errors import CredentialsError, EndpointError, SecretKeyError
from worker.firehose.errors import Kind, classify, of_code, reclassify_expired

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
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
URL = {"endpoint_url": "https://user:secretive@firehose.example:8443/path"}
TRANSIENT_ERRORS = [
    botocore.ReadTimeoutError(**URL),
    botocore.ConnectionClosedError(**URL),
    botocore.HTTPClientError(error="secretive"),
    botocore.IncompleteReadError(actual_bytes=1, expected_bytes=2),
    botocore.ParamValidationError(report="secretive"),
    botocore.NoRegionError(),
    botocore.InvalidRegionError(region_name="secretive"),
    ResponseParserError("secretive"),
]
TROUBLE_ERRORS = [
    (botocore.EndpointConnectionError(**URL), "https://firehose.example:8443"),
    (botocore.ConnectTimeoutError(**URL), "https://firehose.example:8443"),
    (botocore.ProxyConnectionError(proxy_url="http://user:secretive@proxy"), "network"),
    (botocore.SSLError(error="UNEXPECTED_EOF_WHILE_READING", **URL), "handshake"),
    (botocore.SSLError(error="CERTIFICATE_VERIFY_FAILED", **URL), "not trusted"),
    (botocore.SSLError(error="[Errno 2] No such file or directory", **URL), "AWS_CA_BUNDLE"),
    (botocore.NoCredentialsError(), "there are none"),
    (botocore.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"), "SECRET_ACCESS_KEY"),
    (botocore.CredentialRetrievalError(provider="custom-process", error_msg="secretive"), "custom-process"),
    (botocore.MetadataRetrievalError(error_msg="secretive"), "credentials"),
    (botocore.ProfileNotFound(profile="lost"), "lost"),
    (CredentialsError("FileNotFoundError", "No such file or directory: /token"), "/token"),
    (EndpointError("AWS_ENDPOINT_URL_FIREHOSE must be a URL"), "AWS_ENDPOINT_URL_FIREHOSE"),
    (SecretKeyError("AUDIENCE_SECRET_KEY is missing"), "AUDIENCE_SECRET_KEY"),
]
AWS = {"content-type": "application/x-amz-json-1.1", "x-amzn-requestid": "0001"}
HTML = {"content-type": "text/html"}


def client_error(code, status=400, text="secretive", headers=AWS, operation="PutRecordBatch"):
    request_id = headers.get("x-amzn-requestid")
    answer = {
        "Error": {"Code": code, "Message": text},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers, "RequestId": request_id},
    }
    return botocore.ClientError(answer, operation)


def name_of(value):
    return type(value).__name__ if isinstance(value, Exception) else None


@pytest.mark.parametrize("code", TRANSIENT_CODES)
@pytest.mark.parametrize("status", [200, 400, 403, 503])
def test_a_transient_code_of_aws_is_transient(code, status):
    found = classify(client_error(code, status))
    assert found.transient
    assert (found.failure.alert_type, found.failure.error_code) == ("500 - Internal Server Error", code)


@pytest.mark.parametrize(("code", "alert_type"), PERMANENT_CODES.items())
def test_a_permanent_code_of_aws_is_permanent_with_its_alert_type(code, alert_type):
    found = classify(client_error(code))
    assert not found.transient
    assert (found.failure.alert_type, found.failure.error_code) == (alert_type, code)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 599])
def test_a_transient_http_status_is_transient_whatever_the_code(status):
    assert classify(client_error("SomethingNobodyHasHeardOf", status)).transient


@pytest.mark.parametrize("error", TRANSIENT_ERRORS, ids=name_of)
def test_an_exception_after_the_request_was_sent_is_transient(error):
    found = classify(error)
    assert found.kind is Kind.TRANSIENT
    assert found.failure.error_code == type(error).__name__


@pytest.mark.parametrize(("error", "cause"), TROUBLE_ERRORS, ids=name_of)
def test_an_exception_before_the_request_was_sent_is_worker_trouble_that_names_its_cause(error, cause):
    found = classify(error)
    assert (found.kind, found.failure.alert_type) == (Kind.WORKER_TROUBLE, "Worker Trouble")
    assert cause in found.failure.message
    assert found.renew_client


PROXIES = [
    (302, Kind.WORKER_TROUBLE),
    (400, Kind.WORKER_TROUBLE),
    (403, Kind.WORKER_TROUBLE),
    (404, Kind.WORKER_TROUBLE),
    (407, Kind.WORKER_TROUBLE),
    (421, Kind.WORKER_TROUBLE),
    (408, Kind.TRANSIENT),
    (413, Kind.TRANSIENT),
    (425, Kind.TRANSIENT),
    (429, Kind.TRANSIENT),
    (502, Kind.TRANSIENT),
]


@pytest.mark.parametrize(("status", "kind"), PROXIES)
def test_an_answer_without_an_aws_error_is_never_permanent_and_the_alert_names_what_answered(status, kind):
    found = classify(client_error(str(status), status, "<html>secretive</html>", HTML))
    assert found.kind is kind
    assert f"HTTP {status}" in found.failure.message


def test_an_unknown_code_without_the_marks_of_an_aws_answer_is_not_permanent():
    error = client_error("Forbidden", 403, headers={"content-type": "application/json"})
    assert classify(error).kind is Kind.WORKER_TROUBLE


CLOCK = [
    ("InvalidSignatureException", "Signature expired: 20261125T115000Z is now earlier than 20261125T115500Z"),
    ("InvalidSignatureException", "Signature not yet current: 20261125T121000Z is still later than"),
    ("SignatureDoesNotMatch", "Signature expired: 20261125T115000Z"),
    ("RequestTimeTooSkewed", "The difference between the request time and the current time is too large."),
    ("RequestExpired", "Request has expired."),
]


@pytest.mark.parametrize(("code", "text"), CLOCK)
@pytest.mark.parametrize(("minutes", "way"), [(-10, "behind"), (12, "ahead of")])
def test_a_wrong_clock_is_worker_trouble_with_the_difference_that_the_answer_tells(code, text, minutes, way):
    theirs = format_datetime(NOW - timedelta(minutes=minutes), usegmt=True)
    found = classify(client_error(code, 403, text, AWS | {"date": theirs}), NOW)
    assert found.kind is Kind.WORKER_TROUBLE
    assert f"clock differs by {abs(minutes)} minutes" in found.failure.message
    assert way in found.failure.message


def test_a_wrong_clock_is_worker_trouble_even_if_the_answer_bears_no_date():
    assert classify(client_error(*CLOCK[0][:1], 403, CLOCK[0][1]), NOW).kind is Kind.WORKER_TROUBLE


def test_a_wrong_key_is_permanent_although_its_code_is_that_of_a_wrong_clock():
    text = "The request signature we calculated does not match the signature you provided."
    assert classify(client_error("InvalidSignatureException", 403, text), NOW).kind is Kind.PERMANENT


OTHER_SERVICES = [
    ("UnknownOperationException", ""),
    ("InvalidSignatureException", "Credential should be scoped to correct service: 'kinesis'."),
]


@pytest.mark.parametrize(("code", "text"), OTHER_SERVICES)
def test_another_service_of_aws_is_named_as_such(code, text):
    found = classify(client_error(code, 400, text))
    assert found.kind is Kind.WORKER_TROUBLE
    assert "not Firehose" in found.failure.message


def test_a_role_that_may_not_be_assumed_is_permanent_and_its_trust_policy_is_named():
    found = classify(client_error("AccessDenied", 403, operation="AssumeRole"))
    assert (found.kind, found.failure.alert_type) == (Kind.PERMANENT, "Access Denied")
    assert "trust policy" in found.failure.message
    assert "sts:AssumeRole" in found.failure.message


@pytest.mark.parametrize("operation", ["AssumeRoleWithWebIdentity", "GetRoleCredentials"])
def test_a_refusal_of_the_machine_s_own_credentials_is_worker_trouble(operation):
    found = classify(client_error("AccessDenied", 403, operation=operation))
    assert found.kind is Kind.WORKER_TROUBLE
    assert operation in found.failure.message


def test_aws_s_text_and_request_id_are_kept_where_they_hold_no_record():
    text = "User: arn:aws:iam::123456789012:user/x is not authorized to perform: firehose:PutRecordBatch"
    failure = classify(client_error("AccessDeniedException", text=text)).failure
    assert (failure.aws_message, failure.request_id) == (text, "0001")


@pytest.mark.parametrize(
    "code", ["ValidationException", "InvalidArgumentException", "SerializationException"]
)
def test_of_a_refused_request_only_the_request_id_is_kept(code):
    failure = classify(client_error(code)).failure
    assert (failure.aws_message, failure.request_id) == (None, "0001")


@pytest.mark.parametrize(
    "error",
    [client_error("ValidationException"), *TRANSIENT_ERRORS, *(error for error, _ in TROUBLE_ERRORS)],
    ids=name_of,
)
def test_texts_of_aws_and_botocore_that_may_quote_records_are_not_repeated(error):
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
def test_the_message_of_throttling_says_that_aws_can_raise_the_limit(code):
    assert "AWS can raise the limit" in of_code(code).failure.message


def test_the_message_of_an_outage_does_not():
    assert "limit" not in of_code("InternalFailure").failure.message


@pytest.mark.parametrize(
    "code", ["UnrecognizedClientException", "AccessDeniedException", "ResourceNotFoundException"]
)
def test_a_permanent_failure_says_what_to_do(code):
    assert "`audience-firehose " in of_code(code).failure.message


KEY = {"access_key_id": "ASIA0001", "secret_access_key": "encrypted"}
TOKEN = KEY | {"session_token": "encrypted"}
ROLE = {"role_arn": "arn:aws:iam::123456789012:role/x"}
EXPIRED = [
    ({}, "PutRecordBatch", Kind.TRANSIENT),
    (KEY, "PutRecordBatch", Kind.TRANSIENT),
    (ROLE, "PutRecordBatch", Kind.TRANSIENT),
    (ROLE, "AssumeRole", Kind.TRANSIENT),
    (TOKEN, "PutRecordBatch", Kind.PERMANENT),
    (TOKEN | ROLE, "PutRecordBatch", Kind.TRANSIENT),
    (TOKEN | ROLE, "AssumeRole", Kind.PERMANENT),
]


@pytest.mark.parametrize(("settings", "operation", "kind"), EXPIRED)
def test_expired_credentials_are_permanent_only_where_nothing_can_renew_them(settings, operation, kind):
    error = client_error("ExpiredTokenException", operation=operation)
    found = reclassify_expired(classify(error), error, Configuration("main", **settings))
    assert (found.kind, found.renew_client) == (kind, True)
    if kind is Kind.PERMANENT:
        assert found.failure.alert_type == "Invalid Credentials"
        assert "--session-token-stdin" in found.failure.message


def test_other_errors_of_a_stored_session_token_stay_what_they_are():
    error = client_error("ThrottlingException")
    found = classify(error)
    assert reclassify_expired(found, error, Configuration("main", **TOKEN)) is found

"""Firehose's answers to PutRecordBatch: which record each of them leaves to be sent again."""

import json

import pytest

from devstack.firehose import Answer, FakeFirehose, fail
from schemas.settings import Configuration
from worker.firehose.answers import MALFORMED_RESPONSE, refusal_codes, request_id
from worker.firehose.clients import Clients
from worker.firehose.put import put_record_batch

ACCEPTED = {"RecordId": "1"}
FAILED = {"ErrorCode": "InternalFailure"}
ALL_UNKNOWN = [MALFORMED_RESPONSE] * 3

ANSWERS = {
    "all accepted": ({"FailedPutCount": 0, "RequestResponses": [ACCEPTED] * 3}, ["", "", ""]),
    "failures that the count denies": (
        {"FailedPutCount": 0, "RequestResponses": [FAILED, ACCEPTED, FAILED]},
        ["InternalFailure", "", "InternalFailure"],
    ),
    "no failure, though the count says so": (
        {"FailedPutCount": 2, "RequestResponses": [ACCEPTED] * 3},
        ["", "", ""],
    ),
    "no count": ({"RequestResponses": [ACCEPTED] * 3}, ["", "", ""]),
    "a count that is text": ({"FailedPutCount": "0", "RequestResponses": [ACCEPTED] * 3}, ["", "", ""]),
    "an empty code beside a RecordId": (
        {"FailedPutCount": 0, "RequestResponses": [{"RecordId": "1", "ErrorCode": ""}, ACCEPTED, ACCEPTED]},
        ["", "", ""],
    ),
    "a code beside a RecordId": (
        {"FailedPutCount": 1, "RequestResponses": [ACCEPTED | FAILED, ACCEPTED, ACCEPTED]},
        ["InternalFailure", "", ""],
    ),
    "a message without a code": (
        {
            "FailedPutCount": 1,
            "RequestResponses": [ACCEPTED | {"ErrorMessage": "no"}, ACCEPTED, ACCEPTED],
        },
        [MALFORMED_RESPONSE, "", ""],
    ),
    "entries that say nothing": (
        {"FailedPutCount": 0, "RequestResponses": [{}, {"RecordId": ""}, ACCEPTED]},
        [MALFORMED_RESPONSE, MALFORMED_RESPONSE, ""],
    ),
    "fewer entries than records": ({"FailedPutCount": 0, "RequestResponses": [ACCEPTED]}, ALL_UNKNOWN),
    "more entries than records": ({"FailedPutCount": 0, "RequestResponses": [ACCEPTED] * 4}, ALL_UNKNOWN),
    "no entries": ({"FailedPutCount": 0}, ALL_UNKNOWN),
    "an empty object": ({}, ALL_UNKNOWN),
    "null": (None, ALL_UNKNOWN),
    "a list": ([], ALL_UNKNOWN),
    "text": ("ok", ALL_UNKNOWN),
    "a number": (7, ALL_UNKNOWN),
    "entries that are null": ({"FailedPutCount": 0, "RequestResponses": None}, ALL_UNKNOWN),
    "entries that are text": ({"FailedPutCount": 0, "RequestResponses": "abc"}, ALL_UNKNOWN),
    "entries that are numbers": ({"FailedPutCount": 0, "RequestResponses": [1, 2, 3]}, ALL_UNKNOWN),
}


@pytest.mark.parametrize(("answer", "codes"), ANSWERS.values(), ids=ANSWERS)
def test_only_an_entry_with_a_record_id_and_no_error_is_accepted(answer, codes):
    assert refusal_codes(answer, 3) == codes


@pytest.fixture(scope="module")
def firehose():
    with FakeFirehose() as server:
        server.create("travel")
        yield server


@pytest.fixture(scope="module")
def client(firehose):
    with pytest.MonkeyPatch.context() as variables:
        variables.setenv("AWS_ENDPOINT_URL_FIREHOSE", firehose.url)
        variables.setenv("AWS_ACCESS_KEY_ID", "AKIASECRETIVE0001")
        variables.setenv("AWS_SECRET_ACCESS_KEY", "secretive")
        return Clients(cipher=None, read_timeout=30).get(Configuration("main"), "us-east-1")


@pytest.mark.parametrize(("answer", "codes"), ANSWERS.values(), ids=ANSWERS)
def test_botocore_hands_each_answer_over_so_that_it_is_read_the_same(client, firehose, answer, codes):
    firehose.faults[:] = [fail(Answer(200, raw=json.dumps(answer).encode()))]
    assert refusal_codes(put_record_batch(client, "travel", [b"a", b"b", b"c"]), 3) == codes


@pytest.mark.parametrize(
    ("answer", "identifier"),
    [
        ({"ResponseMetadata": {"RequestId": "the-id"}}, "the-id"),
        ({"ResponseMetadata": {"RequestId": None}}, None),
        ({"ResponseMetadata": []}, None),
        ({}, None),
        (None, None),
        ([], None),
    ],
)
def test_the_id_of_a_request_is_read_where_there_is_one(answer, identifier):
    assert request_id(answer) == identifier

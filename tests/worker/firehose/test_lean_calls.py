"""A call with a ready body sends and returns what botocore's own call does."""

import json
from io import BytesIO

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import BotoCoreError, ClientError
from hypothesis import given
from hypothesis import strategies as st

from worker.firehose import lean_calls
from worker.firehose.answers import refusal_codes
from worker.firehose.clients import CONFIG
from worker.firehose.lean_calls import OPERATION, make_calls_lean
from worker.firehose.put import put_record_batch

TAKEN = {"RecordId": "1"}
REFUSED = {"ErrorCode": "ServiceUnavailableException", "ErrorMessage": "Slow down."}


class Raw(BytesIO):
    """A body as urllib3 hands it over."""

    def stream(self, *_, **__):
        yield self.getvalue()


class Firehose:
    """A client of boto3 whose requests are answered here, before they are sent."""

    def __init__(self, *, lean):
        self.client = boto3.client(
            "firehose",
            region_name="us-east-1",
            aws_access_key_id="AKIAEXAMPLE",
            aws_secret_access_key="secretive",
            endpoint_url="http://localhost:1",
            config=CONFIG,
        )
        if lean:
            make_calls_lean(self.client)
        self.client.meta.events.register(f"before-send.{OPERATION}", self._answer)
        self.request = None

    def put(self, data, body, status=200):
        """What the call returned, or the error that it raised."""
        self._body, self._status = body, status
        try:
            return refusal_codes(put_record_batch(self.client, "travel", data), len(data))
        except (BotoCoreError, ClientError) as error:
            return type(error), str(error)

    def _answer(self, request, **_):
        self.request = request
        return AWSResponse(request.url, self._status, {}, Raw(self._body))


BOTH = Firehose(lean=True), Firehose(lean=False)


def answer(*entries, **more):
    return json.dumps({"FailedPutCount": 0, "RequestResponses": list(entries), **more}).encode()


TEXTS = st.none() | st.text(max_size=3)
ENTRIES = st.fixed_dictionaries({}, optional=dict.fromkeys(["RecordId", "ErrorCode", "ErrorMessage"], TEXTS))


@given(
    st.lists(st.binary(max_size=50), min_size=1, max_size=5), st.lists(ENTRIES, max_size=5), st.integers(0, 5)
)
def test_a_call_sends_and_returns_what_botocores_own_call_does(data, entries, failed):
    lean, plain = BOTH
    body = answer(*entries, FailedPutCount=failed, Encrypted=True)
    assert lean.put(data, body) == plain.put(data, body)
    assert json.loads(lean.request.body) == json.loads(plain.request.body)


def test_the_ready_body_is_the_one_that_is_signed_and_measured():
    lean, plain = BOTH
    for firehose in BOTH:
        firehose.put([b"a\n"], answer(TAKEN))
    assert lean.request.headers["Content-Length"] == str(len(lean.request.body))
    assert lean.request.headers["Authorization"] != plain.request.headers["Authorization"]
    same = ("Content-Type", "X-Amz-Target")
    assert [lean.request.headers[name] for name in same] == [plain.request.headers[name] for name in same]


UNEXPECTED = {
    "no JSON": b"<html>",
    "nothing": b"",
    "no object": b"[]",
    "null": b"null",
    "no entries": b"{}",
    "entries that are null": b'{"RequestResponses":null}',
    "entries that are an object": b'{"RequestResponses":{}}',
    "half a surrogate pair": rb'{"RequestResponses":[{"RecordId":"\ud800"}]}',
    "no UTF-8": b'{"RequestResponses":[{"RecordId":"\xff"}]}',
}


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("body", UNEXPECTED.values(), ids=UNEXPECTED)
def test_an_unexpected_answer_ends_as_with_botocores_own_reading(body, status):
    lean, plain = BOTH
    assert lean.put([b"a"], body, status) == plain.put([b"a"], body, status)


@pytest.mark.parametrize("code", ["ServiceUnavailableException", "ResourceNotFoundException"])
def test_an_error_is_the_one_that_botocore_raises(code):
    body = json.dumps({"__type": code, "message": "Slow down.", "RequestResponses": []}).encode()
    lean, plain = BOTH
    assert lean.put([b"a"], body, 400) == plain.put([b"a"], body, 400)
    assert lean.put([b"a"], body, 400)[0].__name__ == code


def test_an_entry_that_is_no_object_is_refused_and_its_neighbours_are_as_they_say():
    lean, _ = BOTH
    codes = lean.put([b"a", b"b", b"c", b"d"], answer(TAKEN, None, REFUSED, [1]))
    assert codes == ["", "MalformedResponse", "ServiceUnavailableException", "MalformedResponse"]


def test_another_operation_of_the_client_is_botocores():
    lean, _ = BOTH
    seen = []
    lean.client.meta.events.register(
        "before-send.firehose.PutRecord",
        lambda request, **_: seen.append(request.body) or AWSResponse("", 200, {}, Raw(b'{"RecordId":"1"}')),
    )
    assert lean.client.put_record(DeliveryStreamName="travel", Record={"Data": b"a"})["RecordId"] == "1"
    assert json.loads(seen[0]) == {"DeliveryStreamName": "travel", "Record": {"Data": "YQ=="}}


def test_with_another_protocol_botocore_makes_its_own_bodies(monkeypatch):
    monkeypatch.setattr(lean_calls, "PROTOCOL", "smithy-rpc-v2-cbor")
    firehose = Firehose(lean=True)
    assert firehose.put([b"a"], answer(TAKEN)) == [""]
    assert firehose.request.body == b'{"DeliveryStreamName": "travel", "Records": [{"Data": "YQ=="}]}'

"""A call without botocore's layers sends, returns and raises what botocore's own call does."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session
from hypothesis import given
from hypothesis import strategies as st

from worker.firehose import lean_calls
from worker.firehose.answers import refusal_codes
from worker.firehose.clients import CONFIG
from worker.firehose.lean_calls import HEADERS_OF_A_CALL, make_calls_lean, request_body
from worker.firehose.put import put_record_batch
from worker.upstream import set_session_credentials

TAKEN = {"RecordId": "1"}
REFUSED = {"ErrorCode": "ServiceUnavailableException", "ErrorMessage": "Slow down."}
KEYS = Credentials("AKIAEXAMPLE", "secretive", "token")


class Server(ThreadingHTTPServer):
    """Gives a prepared answer and remembers the last request's headers and body."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.answer = 200, b"{}"
        self.headers = self.body = None
        self.requests = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self):
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        self.server.requests += 1
        self.server.headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.body = self.rfile.read(int(self.headers["Content-Length"]))
        status, body = self.server.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("x-amzn-RequestId", "the-id")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def make_client(url, *, lean, credentials):
    session = Session()
    set_session_credentials(session, credentials)
    client = boto3.Session(botocore_session=session).client(
        "firehose", region_name="us-east-1", endpoint_url=url, config=CONFIG
    )
    if lean:
        make_calls_lean(client)
    return client


class Firehose:
    """A client whose first call, which is botocore's own in any case, has been made."""

    def __init__(self, *, lean, credentials=KEYS):
        self.server = Server()
        self.client = make_client(self.server.url, lean=lean, credentials=credentials)
        self.put([b"first"], answer(TAKEN))

    def put(self, data, body, status=200):
        """The answer of the call, or the error that it raised."""
        self.server.answer = status, body
        try:
            return refusal_codes(put_record_batch(self.client, "travel", data), len(data))
        except (BotoCoreError, ClientError) as error:
            return type(error).__name__, str(error), getattr(error, "response", {}).get("Error")


def answer(*entries, **more):
    return json.dumps({"FailedPutCount": 0, "RequestResponses": list(entries), **more}).encode()


BOTH = Firehose(lean=True), Firehose(lean=False)
TEXTS = st.none() | st.text(max_size=3)
ENTRIES = st.fixed_dictionaries({}, optional=dict.fromkeys(["RecordId", "ErrorCode", "ErrorMessage"], TEXTS))


@given(
    st.lists(st.binary(max_size=50), min_size=1, max_size=5), st.lists(ENTRIES, max_size=5), st.integers(0, 5)
)
def test_a_call_sends_and_returns_what_botocores_own_call_does(data, entries, failed):
    lean, plain = BOTH
    body = answer(*entries, FailedPutCount=failed, Encrypted=True)
    assert lean.put(data, body) == plain.put(data, body)
    assert json.loads(lean.server.body) == json.loads(plain.server.body)


def test_a_request_has_the_headers_of_botocores_own_and_an_id_of_its_own():
    lean, plain = BOTH
    ids = set()
    for firehose in (lean, lean, plain):
        firehose.put([b"a\n"], answer(TAKEN))
        ids.add(firehose.server.headers["amz-sdk-invocation-id"])
    assert len(ids) == 3
    assert lean.server.headers.keys() == plain.server.headers.keys()
    assert lean.server.headers.keys() >= HEADERS_OF_A_CALL
    for name in lean.server.headers.keys() - HEADERS_OF_A_CALL - {"host"}:
        assert lean.server.headers[name] == plain.server.headers[name]


def test_the_body_that_is_sent_is_the_one_that_is_signed():
    lean, _ = BOTH
    lean.put([b"a\n"], answer(TAKEN))
    sent = lean.server.headers
    signed = sent["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    request = AWSRequest(
        "POST", f"{lean.server.url}/", {name: sent[name] for name in signed}, lean.server.body
    )
    request.context["timestamp"] = sent["x-amz-date"]
    signer = SigV4Auth(KEYS, "firehose", "us-east-1")
    signature = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    assert lean.server.body == request_body("travel", [b"a\n"])
    assert sent["authorization"].endswith(f"Signature={signature}")


def test_each_call_is_signed_with_the_credentials_of_that_moment():
    credentials = Credentials("AKIAFIRST", "secretive", "first")
    firehose = Firehose(lean=True, credentials=credentials)
    credentials.access_key, credentials.token = "AKIASECOND", "second"
    firehose.put([b"a"], answer(TAKEN))
    assert firehose.server.headers["x-amz-security-token"] == "second"
    assert "Credential=AKIASECOND/" in firehose.server.headers["authorization"]


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


@pytest.mark.parametrize("status", [200, 202, 302, 400, 500])
@pytest.mark.parametrize("body", UNEXPECTED.values(), ids=UNEXPECTED)
def test_an_unexpected_answer_ends_as_with_botocores_own_reading(body, status):
    lean, plain = BOTH
    assert lean.put([b"a"], body, status) == plain.put([b"a"], body, status)


@pytest.mark.parametrize("code", ["ServiceUnavailableException", "ResourceNotFoundException", "Unheard"])
def test_an_error_is_the_one_that_botocore_raises(code):
    body = json.dumps({"__type": code, "message": "Slow down.", "RequestResponses": []}).encode()
    lean, plain = BOTH
    raised = lean.put([b"a"], body, 400)
    assert raised == plain.put([b"a"], body, 400)
    assert raised[-1] == {"Code": code, "Message": "Slow down."}


@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_request_is_sent_once_whatever_the_answer(status):
    lean, _ = BOTH
    before = lean.server.requests
    lean.put([b"a"], b"<html>", status)
    assert lean.server.requests == before + 1


def test_a_firehose_that_is_gone_raises_what_botocore_raises():
    raised = []
    for lean in (True, False):
        firehose = Firehose(lean=lean)
        firehose.server.close()
        # The kept connection is closed, too: this call connects anew.
        firehose.client.close()
        raised.append(firehose.put([b"a"], answer(TAKEN))[0])
    assert raised == ["EndpointConnectionError"] * 2


def test_an_entry_that_is_no_object_is_refused_and_its_neighbours_are_as_they_say():
    lean, _ = BOTH
    codes = lean.put([b"a", b"b", b"c", b"d"], answer(TAKEN, None, REFUSED, [1]))
    assert codes == ["", "MalformedResponse", "ServiceUnavailableException", "MalformedResponse"]


def test_another_operation_of_the_client_is_botocores():
    lean, _ = BOTH
    lean.server.answer = 200, b'{"RecordId":"1"}'
    assert lean.client.put_record(DeliveryStreamName="travel", Record={"Data": b"a"})["RecordId"] == "1"
    assert json.loads(lean.server.body) == {"DeliveryStreamName": "travel", "Record": {"Data": "YQ=="}}


def test_with_another_protocol_all_calls_are_botocores(monkeypatch):
    monkeypatch.setattr(lean_calls, "PROTOCOL", "smithy-rpc-v2-cbor")
    firehose = Firehose(lean=True)
    assert firehose.put([b"a"], answer(TAKEN)) == [""]
    assert firehose.server.body == b'{"DeliveryStreamName": "travel", "Records": [{"Data": "YQ=="}]}'

"""Sends PutRecordBatch without the layers that botocore has around a call.

For each call, botocore makes the body member by member by a description of the service, resolves the
endpoint, raises some twenty events, and reads the answer as it made the body. That is two thirds of the time
of a call with 500 records, and half of that of a call with one.

Here a client's first call is botocore's own, and the request that botocore made of it is the pattern of those
that follow: the same URL and headers, another body. The client's own signer signs them and its own HTTP
session sends them, so credentials and their renewal, proxies, certificates and timeouts are botocore's. An
answer that is no plain success is handed to botocore, which reads it as if it had sent the request itself:
errors are its own.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import orjson
from botocore.awsrequest import AWSPreparedRequest, AWSRequest, AWSResponse
from pybase64 import b64encode

from worker.upstream import send_request, sign_request

if TYPE_CHECKING:
    from mypy_boto3_firehose.client import FirehoseClient

OPERATION = "PutRecordBatch"
EVENT = f"firehose.{OPERATION}"
PROTOCOL = "json"
"""The protocol of the bodies made here. With another one, botocore makes its own."""
RESPONSE = "audience_firehose_response"
"""The key of a response that botocore is to read, in a call's parameters and then in its context."""
ENTRIES = "RequestResponses"
INVOCATION_ID = "amz-sdk-invocation-id"
HEADERS_OF_A_CALL = {"authorization", "content-length", "x-amz-date", "x-amz-security-token", INVOCATION_ID}
CONTEXT_OF_A_CALL = {"retries", "timestamp"}


def make_calls_lean(client: "FirehoseClient") -> None:
    """Replace the client's method `put_record_batch`."""
    if client.meta.service_model.resolved_protocol == PROTOCOL:
        client.put_record_batch = _PutRecordBatch(client)  # type: ignore[method-assign]


def put_data(client: "FirehoseClient", delivery_stream_name: str, data: Sequence[bytes]) -> Any:
    """Send records in one call. Returns and raises what the client's method does."""
    put_record_batch = client.put_record_batch
    if isinstance(put_record_batch, _PutRecordBatch):
        return put_record_batch.put(delivery_stream_name, data)
    return put_record_batch(
        DeliveryStreamName=delivery_stream_name, Records=[{"Data": record} for record in data]
    )


def request_body(delivery_stream_name: str, data: Sequence[bytes]) -> bytes:
    """The body of a call with these records, of which there is at least one."""
    name = orjson.dumps(delivery_stream_name)
    records = b'"},{"Data":"'.join([b64encode(record) for record in data])
    return b'{"DeliveryStreamName":%b,"Records":[{"Data":"%b"}]}' % (name, records)


class _Pattern(NamedTuple):
    """The parts that all requests of a client have in common."""

    url: str
    headers: dict[str, str]
    context: dict[str, Any]
    """The context that botocore signs by: the kind of signature, the service and the region."""


class _PutRecordBatch:
    """A client's method: takes, returns and raises what the method does that it replaces."""

    def __init__(self, client: "FirehoseClient") -> None:
        self._client = client
        self._call_botocore = client.put_record_batch
        self._pattern: _Pattern | None = None
        # The stubs know of no handler that returns something.
        events: Any = client.meta.events
        events.register(f"provide-client-params.{EVENT}", _keep_response)
        events.register(f"before-send.{EVENT}", self._before_send)

    def __call__(self, *, DeliveryStreamName: str, Records: Sequence[Any]) -> Any:  # noqa: N803
        return self.put(DeliveryStreamName, [record["Data"] for record in Records])

    def put(self, delivery_stream_name: str, data: Sequence[bytes]) -> Any:
        """Send these records."""
        if self._pattern is None:
            return self._call_botocore(
                DeliveryStreamName=delivery_stream_name, Records=[{"Data": record} for record in data]
            )
        response = self._send(self._pattern, request_body(delivery_stream_name, data))
        answer = _plain_answer(response)
        if answer is None:
            unsent: Any = {"DeliveryStreamName": delivery_stream_name, "Records": [], RESPONSE: response}
            return self._call_botocore(**unsent)
        return answer

    def _send(self, pattern: _Pattern, body: bytes) -> AWSResponse:
        headers = {**pattern.headers, INVOCATION_ID: str(uuid4())}
        request = AWSRequest("POST", pattern.url, headers, body)
        request.context = dict(pattern.context)
        sign_request(self._client, OPERATION, request)
        # In botocore's own mapping Python compares the names without their case. The stubs know of no other.
        signed: Any = {**dict(request.headers.items()), "Content-Length": str(len(body))}
        prepared = AWSPreparedRequest(
            "POST", pattern.url, signed, body, stream_output=False, context=request.context
        )
        return send_request(self._client, prepared)

    def _before_send(self, request: Any, **_: Any) -> AWSResponse | None:
        """Answer in Firehose's place where it has answered already; else take the request as the pattern."""
        response: AWSResponse | None = request.context.get(RESPONSE)
        if response is None:
            self._pattern = _pattern(request.url, request.headers, request.context)
        return response


def _pattern(url: str, headers: Mapping[str, str | bytes], context: Mapping[str, Any]) -> _Pattern:
    """The pattern of a request that botocore is about to send."""
    common = {name: value for name, value in headers.items() if name.lower() not in HEADERS_OF_A_CALL}
    return _Pattern(
        url,
        {name: value.decode() if isinstance(value, bytes) else value for name, value in common.items()},
        {name: value for name, value in context.items() if name not in CONTEXT_OF_A_CALL},
    )


def _keep_response(params: dict[str, Any], context: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Move a response from a call's parameters to its context."""
    if RESPONSE in params:
        context[RESPONSE] = params[RESPONSE]
    return {name: value for name, value in params.items() if name != RESPONSE}


def _plain_answer(response: AWSResponse) -> dict[str, Any] | None:
    """A success with an entry for each record, as botocore would return it; None for anything else."""
    if response.status_code != HTTPStatus.OK:
        return None
    try:
        answer = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(answer, dict) or not isinstance(answer.get(ENTRIES), list):
        return None
    return {**answer, "ResponseMetadata": {"RequestId": response.headers.get("x-amzn-requestid")}}

"""Has botocore send a request body that is ready, and read only the rest of an answer.

botocore makes the body and reads the answer member by member, by a description of the service: of 500 records
that takes half of a call's time. Here the body is made at once, and the answer's entries are decoded by
orjson. Both go through the events that botocore has for extensions; credentials, endpoint, signature, errors
and connections stay its own.
"""

from binascii import b2a_base64
from collections.abc import Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from botocore.client import BaseClient

OPERATION = "firehose.PutRecordBatch"
PROTOCOL = "json"
"""The protocol of the bodies made here. With another one, botocore makes its own."""
BODY = "audience_firehose_body"
"""The key under which a call's context holds its body."""
ENTRIES = "RequestResponses"


def make_calls_lean(client: "BaseClient") -> None:
    """Have the client's calls of PutRecordBatch use ready bodies."""
    if client.meta.service_model.resolved_protocol == PROTOCOL:
        # The stubs know of no handler that returns something.
        events: Any = client.meta.events
        events.register(f"provide-client-params.{OPERATION}", _make_body)
        events.register(f"before-call.{OPERATION}", _use_body)
        events.register(f"before-parse.{OPERATION}", _read_entries)


def request_body(delivery_stream_name: str, data: Sequence[bytes]) -> bytes:
    """The body of a call with these records, of which there is at least one."""
    name = orjson.dumps(delivery_stream_name)
    records = b'"},{"Data":"'.join([b2a_base64(record, newline=False) for record in data])
    return b'{"DeliveryStreamName":%b,"Records":[{"Data":"%b"}]}' % (name, records)


def _make_body(params: dict[str, Any], context: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Make the call's body, and leave botocore no records to make one of."""
    data = [record["Data"] for record in params["Records"]]
    context[BODY] = request_body(params["DeliveryStreamName"], data)
    return {**params, "Records": []}


def _use_body(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    params["body"] = context.pop(BODY)


def _read_entries(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """Decode the entries of a successful answer, and leave botocore an answer without any.

    What is not as expected stays for botocore to read, or to fail at.
    """
    if response_dict["status_code"] != HTTPStatus.OK:
        return
    try:
        answer = orjson.loads(response_dict["body"])
    except orjson.JSONDecodeError:
        return
    if isinstance(answer, dict) and isinstance(answer.get(ENTRIES), list):
        customized_response_dict[ENTRIES] = answer[ENTRIES]
        response_dict["body"] = orjson.dumps({**answer, ENTRIES: []})

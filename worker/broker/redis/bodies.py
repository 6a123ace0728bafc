"""Bodies of delivery messages, which stay in the broker until a pool process reads them.

A batch's records are many times what a worker's main process needs to know of it. So the answer to a poll
lacks them where the message's headers tell their cost, and in their place the call names the delivery tag
under which the message is recorded as unacknowledged.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from worker.broker.messages import TaskCall, read_call
from worker.broker.redis.message import decode
from worker.queues import BYTES_HEADER, RECORDS_HEADER

BODY_TAG = "audience_body"
"""The only argument of a call whose body stays in the broker."""


def leave_body(payload: dict[str, Any], tag: str) -> dict[str, Any]:
    """A message as the main process handles it: where `reserve.lua` has left its body out, with the tag."""
    if payload["body"] != "" or not isinstance(payload.get("headers"), dict):
        return payload
    payload["headers"].pop("compression", None)
    payload["properties"].pop("body_encoding", None)
    return {**payload, "body": orjson.dumps([[], {BODY_TAG: tag}, None]).decode()}


def cost_headers(firehose_records: int, size: int) -> dict[str, int]:
    """The headers by which a batch's cost is known without its body."""
    return {RECORDS_HEADER: firehose_records, BYTES_HEADER: size}


def tag_of_body(kwargs: Mapping[str, Any]) -> str | None:
    """The delivery tag that names a call's body; None where the call has its arguments."""
    tag = kwargs.get(BODY_TAG)
    return tag if len(kwargs) == 1 and isinstance(tag, str) else None


def read_body(channel: Any, tag: str) -> TaskCall | None:
    """The call that is recorded under a delivery tag; None where it is not reserved any more.

    A malformed one has its text as its only argument. Raises `RedisError`.
    """
    with channel.conn_or_acquire() as client:
        record = client.hget(channel.unacked_key, tag)
    if record is None:
        return None
    text = record[1:-1].rsplit(b",", 2)[0]
    try:
        found = read_call(orjson.loads(text))
    except orjson.JSONDecodeError:
        found = None
    return found.call if found else TaskCall({}, [], {"malformed": decode(text)})

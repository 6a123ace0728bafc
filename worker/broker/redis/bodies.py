"""Bodies of delivery messages, which stay in the broker until a pool process reads them.

A batch's records are many times what a worker's main process needs to know of it. So the answer to a poll
lacks them where the message's headers tell their cost, and in their place the call names the delivery tag
under which the message is recorded as unacknowledged.
"""

from collections.abc import Mapping
from typing import Any

import orjson
from kombu.message import Message

from worker.broker.messages import TaskCall, encoded_call, load_envelope, queue_of
from worker.broker.redis.message import decode, parse, text_of_record
from worker.broker.serialization import CONTENT_TYPE
from worker.queues import BYTES_HEADER, RECORDS_HEADER

BODY_TAG = "audience_body"
"""The only argument of a call whose body stays in the broker."""


def leave_body(payload: dict[str, Any], tag: str) -> dict[str, Any]:
    """A message as the main process handles it: where `reserve.lua` has left its body out, with the tag."""
    headers = payload.get("headers")
    if payload.get("body") != "" or not isinstance(headers, dict) or BYTES_HEADER not in headers:
        return payload
    headers.pop("compression", None)
    payload["properties"].pop("body_encoding", None)
    call = {"body": _left_body(tag), "content-type": CONTENT_TYPE, "content-encoding": "utf-8"}
    return payload | call


def _left_body(tag: str) -> str:
    return orjson.dumps([[], {BODY_TAG: tag}, None]).decode()


def cost_headers(firehose_records: int, size: int) -> dict[str, int]:
    """The headers by which a batch's cost is known without its body."""
    return {RECORDS_HEADER: firehose_records, BYTES_HEADER: size}


def is_body_left(kwargs: Mapping[str, Any], tag: Any) -> bool:
    """Whether the call of the message with this delivery tag has its arguments in the broker."""
    return len(kwargs) == 1 and isinstance(tag, str) and kwargs.get(BODY_TAG) == tag


def whole_message(message: Message) -> Message | None:
    """The message with its body, where that was left in the broker; None where it is not reserved any more.

    Raises `RedisError`.
    """
    tag = message.delivery_tag
    if not isinstance(tag, str) or message.body not in (_left_body(tag), _left_body(tag).encode()):
        return message
    text = _recorded_text(message.channel, tag)
    if text is None:
        return None
    return message.channel.Message(parse(decode(text), tag, queue_of(message)), message.channel)


def read_body(channel: Any, tag: str) -> TaskCall | None:
    """The call that is recorded under a delivery tag; None where it is not reserved any more.

    A malformed one has its text as its only argument. Raises `RedisError`.
    """
    text = _recorded_text(channel, tag)
    if text is None:
        return None
    try:
        found = encoded_call(load_envelope(text))
    except orjson.JSONDecodeError:
        found = None
    return (found and found.decode()) or TaskCall({}, [], {"malformed": decode(text)})


def _recorded_text(channel: Any, tag: str) -> bytes | None:
    with channel.conn_or_acquire() as client:
        record: bytes | None = client.hget(channel.unacked_key, tag)
    return record and text_of_record(record)

"""Messages as they lie in Redis, malformed ones included.

Anybody can push bytes into a queue. A malformed message is wrapped into a message whose body holds those
bytes, so that it can be reserved, requeued and acknowledged like any other until the consumer stores it as
a dead letter.
"""

from typing import Any

from kombu.transport import virtual
from kombu.utils.json import dumps, loads

from worker.queues import SEQUENCE_HEADER


def decode(content: bytes | str) -> str:
    """The text of what Redis returned; bytes that are no UTF-8 as `\\xNN`."""
    return content if isinstance(content, str) else content.decode(errors="backslashreplace")


def text_of_record(record: bytes) -> bytes:
    """The message of a record: that is a list of the message, its exchange and its queue."""
    end = record.rfind(b",", 0, record.rfind(b","))
    return record[1:end]


def wrap_malformed(text: str, tag: str, queue: str) -> dict[str, Any]:
    """A message, as kombu sends it, whose body is the text of a malformed one."""
    delivery_info = {"exchange": "", "routing_key": queue}
    return {
        "body": text,
        "headers": {},
        "properties": {"delivery_tag": tag, "delivery_info": delivery_info},
    }


def parse(text: str, tag: str, queue: str) -> dict[str, Any]:
    """The message that was reserved, with the delivery tag under which it is recorded.

    `reserve.lua` looks for the tag only: the text may be no JSON, or no message of kombu's.
    """
    try:
        payload: dict[str, Any] = loads(text)
        properties = payload["properties"]
        properties["delivery_info"]["routing_key"]
        properties["delivery_tag"] = tag
    except Exception:
        # kombu's decoding of dates and numbers raises any error.
        return wrap_malformed(text, tag, queue)
    _move_stamp(payload)
    return payload


def _move_stamp(payload: dict[str, Any]) -> None:
    """Have the sequence number that `reserve.lua` put into the envelope among the headers, for the task.

    A number that is there already stays: the message is a replay, or was requeued.
    """
    number = payload.pop("sequence", None)
    if number is not None and isinstance(headers := payload.get("headers"), dict):
        headers.setdefault(SEQUENCE_HEADER, number)


class Message(virtual.Message):  # type: ignore[misc]
    """A message of kombu's, or the wrapping of a payload that kombu cannot make one of."""

    def __init__(self, payload: dict[str, Any], channel: Any = None, **options: Any) -> None:
        try:
            super().__init__(payload, channel=channel, **options)
        except Exception:
            properties = payload["properties"]
            tag, queue = properties["delivery_tag"], properties["delivery_info"]["routing_key"]
            super().__init__(wrap_malformed(dumps(payload), tag, queue), channel=channel, **options)

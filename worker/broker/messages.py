"""A task call, read from a message of either of Celery's two protocols.

In protocol 2, which Celery sends by default, the headers describe the call, and the body is
`[args, kwargs, embed]`. In protocol 1 the body is one object that holds all of it. Nothing else in this
project looks into headers or bodies for a call's fields. Source: "Message Protocol", Celery's documentation.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol
from uuid import uuid4

import orjson
from kombu.message import Message
from pybase64 import b64decode

from worker.broker.compression import MAX_DECOMPRESSED_BYTES, decompress_within

EMBEDDED = ("callbacks", "errbacks", "chain", "chord")
"""Fields that protocol 2 holds in the body's third part."""
ENVELOPE_BEGINS = re.compile(rb'\{(?:"sequence":"[0-9]+",)?"body": ?"')
APART = uuid4().hex.encode()
"""Takes the place of a body while its envelope is decoded. No sender knows it."""
NOT_PLAIN = ("eta", "expires", "retries", *EMBEDDED)
"""Headers of which a plain call has none, or 0 for `retries`."""


class TaskCall(NamedTuple):
    """A call as its sender wrote it; `worker.consumer.validation` says whether Celery can run it.

    Its `repr` has none of its arguments, and so no identity.
    """

    fields: Mapping[str, Any]
    """The fields that describe the call, under the names that both protocols use: task, id, eta, …"""
    args: list[Any]
    kwargs: dict[str, Any]

    @property
    def task(self) -> str:
        """The task's name."""
        return str(self.fields["task"])

    @property
    def id(self) -> str:
        """The message's ID, which the task's retries and the message's copies share."""
        return str(self.fields["id"])

    @property
    def retries(self) -> int:
        """How often Celery has sent the call again."""
        return self.fields.get("retries") or 0

    @property
    def eta(self) -> str | None:
        """The time before which nobody may run it, ISO 8601."""
        return self.fields.get("eta") or None

    @property
    def origin(self) -> str | None:
        """The process that sent it, as Celery names it: `gen<pid>@<host>`."""
        return self.fields.get("origin") or None

    def __repr__(self) -> str:
        return f"<TaskCall of {self.fields.get('task')}>"


def read_task_call(message: Message) -> TaskCall | None:
    """The call in a message; None where it holds none. Raises where its body cannot be decoded."""
    headers, body = message.headers or {}, message.payload
    match body:
        case [list() as args, dict() as kwargs, dict() | None as embed] if "task" in headers:
            embedded = {name: embed.get(name) for name in EMBEDDED} if embed else {}
            return TaskCall({**headers, **embedded}, args, kwargs)
        case {"args": list() as args, "kwargs": dict() as kwargs}:
            return TaskCall({**body, **headers}, args, kwargs)
    return None


class EncodedCall(NamedTuple):
    """A call of protocol 2 whose arguments are not decoded yet. Its `repr` has none of them."""

    fields: Mapping[str, Any]
    """The headers. `task` is a text."""
    content: bytes
    """The body: JSON, not compressed."""

    @property
    def is_plain(self) -> bool:
        """Whether all that the headers ask of Celery is to run the call: no ETA, no retry."""
        return not any(map(self.fields.get, NOT_PLAIN))

    def decode(self) -> TaskCall | None:
        """The call; None for one that further calls follow, and for anything that is not as expected."""
        try:
            args, kwargs, embed = orjson.loads(self.content)
            is_followed = embed and any(embed.values())
        except Exception:
            # Whatever is wrong, `read_task_call` meets it again, and the message becomes a dead letter.
            return None
        if type(args) is not list or type(kwargs) is not dict or is_followed:
            return None
        return TaskCall(self.fields, args, kwargs)

    def __repr__(self) -> str:
        return f"<EncodedCall of {self.fields.get('task')}>"


def load_envelope(text: bytes) -> Any:
    """An envelope of kombu's transport for Redis, from its JSON text. Raises `ValueError`.

    A body that needs no decoding but base64's stays the bytes that it is.
    """
    start = ENVELOPE_BEGINS.match(text)
    if start is None:
        return orjson.loads(text)
    begin, end = start.end(), text.find(b'"', start.end())
    # A message of another sender may escape characters of its body, or have two.
    if end >= 0 and text.find(b"\\", begin, end) < 0:
        envelope = orjson.loads(text[:begin] + APART + text[end:])
        if envelope["body"] == APART.decode():
            return envelope | {"body": memoryview(text)[begin:end]}
    return orjson.loads(text)


def encoded_call(envelope: Any, max_bytes: int = MAX_DECOMPRESSED_BYTES) -> EncodedCall | None:
    """The call in an envelope, as `load_envelope` returns it, at a fraction of kombu's cost.

    None for a call of protocol 1, one whose content has more than `max_bytes`, and for anything that is not
    as expected: `read_task_call` and Celery read those.
    """
    try:
        headers, body = envelope["headers"], envelope["body"]
        if (
            not isinstance(body, str | memoryview)
            or envelope["content-type"] != "application/json"
            or envelope["properties"]["body_encoding"] != "base64"
        ):
            return None
        content = b64decode(body, validate=True)
    except Exception:
        return None
    return encoded_content(headers, content, max_bytes)


def encoded_content(headers: Any, body: bytes, max_bytes: int) -> EncodedCall | None:
    """The call of a message of JSON, from its headers and its body. None as `encoded_call` returns it."""
    try:
        if type(headers["task"]) is not str:
            return None
        compression = headers.get("compression")
        content = decompress_within(body, compression, max_bytes) if compression else body
    except Exception:
        return None
    return EncodedCall(headers, content) if len(content) <= max_bytes else None


class Delivered(Protocol):
    """A message, or Celery's request for one."""

    delivery_info: Mapping[str, Any] | None


def queue_of(message: Delivered) -> str:
    """The queue that a message was consumed from; empty where the broker does not say."""
    return str((message.delivery_info or {}).get("routing_key") or "")

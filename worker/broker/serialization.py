"""JSON and base64 for messages, by orjson and pybase64, at a fraction of the cost of kombu's own.

Python's JSON reads the texts that orjson refuses: half a surrogate pair must make its own change invalid and
not the whole message. kombu's JSON writes the types that orjson does not know, which Celery's control
messages contain.
"""

import json
import sys
from collections.abc import Iterable
from typing import Any

import orjson
from kombu.serialization import register
from kombu.transport.virtual import Base64
from kombu.utils import json as kombu_json
from pybase64 import b64decode, b64encode_as_string

CONTENT_TYPE = "application/json"
MAX_DEPTH = 1024
"""Levels of nesting that orjson reads. A text with more is refused."""
RECURSION_LIMIT = 4 * MAX_DEPTH
"""Python's own limit is 1,000, too low to write again (as a dead letter) what orjson has read."""


def register_orjson() -> None:
    """Make it this process's serializer for JSON."""
    register("json", dumps, loads, content_type=CONTENT_TYPE, content_encoding="utf-8")
    sys.setrecursionlimit(max(sys.getrecursionlimit(), RECURSION_LIMIT))


def dumps(content: Any) -> str:
    """JSON text."""
    return dumps_bytes(content).decode()


def dumps_bytes(content: Any) -> bytes:
    """JSON text in UTF-8."""
    try:
        return orjson.dumps(content)
    except TypeError:
        text: str = kombu_json.dumps(content)
        return text.encode()


def loads(text: str | bytes) -> Any:
    """The content of JSON text, integers of more than 64 bits as floats. Raises `ValueError`."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return _parse_leniently(text if isinstance(text, str) else bytes(text).decode())


class FastBase64(Base64):  # type: ignore[misc]
    """kombu's codec of bodies in Redis: the same texts and bytes."""

    def encode(self, body: str | bytes) -> str:
        """The base64 of a body."""
        return b64encode_as_string(body.encode() if isinstance(body, str) else body)

    def decode(self, text: str | bytes) -> bytes:
        """The body. Raises `ValueError`."""
        try:
            return b64decode(text, validate=True)
        except ValueError:
            # With a line break or another character, which kombu skips.
            body: bytes = super().decode(text)
            return body


def _parse_leniently(text: str) -> Any:
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if _depth(content) > MAX_DEPTH:
        raise ValueError("nested too deeply")
    return content


def _depth(content: Any) -> int:
    """The number of levels of nesting."""
    depth, level = 0, [content]
    while level := [inner for outer in level for inner in _children(outer)]:
        depth += 1
    return depth


def _children(content: Any) -> Iterable[Any]:
    if isinstance(content, dict):
        return content.values()
    return content if isinstance(content, list) else ()

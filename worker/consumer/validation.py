"""What a message must look like for Celery to make a task call of it.

Celery trusts what stands around a call's arguments: its ID, its retries, its times. What is
wrong there fails later, in a place where the message is dropped, waits for ever, or takes
the worker with it. So it is looked at first.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from kombu.message import Message

from schemas.fields import is_utf8

MAX_ID_LENGTH = 255
"""Characters. Celery's own IDs have 36; an ID becomes part of keys in Redis."""
MAX_RETRIES = 2**31
NAMES = ("task", "id")
OPTIONAL_NAMES = ("shadow", "root_id", "parent_id", "group", "origin", "lang")


def is_task_call(message: Message) -> bool:
    """Whether a message is a call as Celery writes it. Raises where its body cannot be read."""
    headers, payload = message.headers or {}, message.payload
    match payload:
        case [list(), dict(), dict() | None as embed] if "task" in headers:
            return _is_sound({**headers, **(embed or {})})
        case {"args": list(), "kwargs": dict()}:
            # Celery's older protocol, where all is in the body.
            return _is_sound({**payload, **headers})
    return False


def _is_sound(call: Mapping[str, Any]) -> bool:
    return (
        all(_is_name(call.get(name)) for name in NAMES)
        and all(call.get(name) is None or _is_name(call[name]) for name in OPTIONAL_NAMES)
        and _is_retries(call.get("retries"))
        and _is_stamped(call.get("stamped_headers"), call.get("stamps"))
        and all(_is_time(call.get(name)) for name in ("eta", "expires"))
        and all(map(_is_further_call, _further_calls(call)))
    )


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_LENGTH and is_utf8(value)


def _further_calls(call: Mapping[str, Any]) -> Iterator[Any]:
    """What is to be called after this one."""
    for name in ("callbacks", "errbacks", "chain"):
        found = call.get(name) or ()
        yield from found if isinstance(found, list | tuple) else (found,)
    if call.get("chord"):
        yield call["chord"]


def _is_further_call(call: Any) -> bool:
    return isinstance(call, dict) and _is_name(call.get("task"))


def _is_retries(value: Any) -> bool:
    return value is None or (type(value) is int and 0 <= value < MAX_RETRIES)


def _is_stamped(headers: Any, stamps: Any) -> bool:
    """Whether these are Celery's stamps, of which a message mostly has none."""
    return (headers is None or (isinstance(headers, list) and all(map(_is_name, headers)))) and (
        stamps is None or isinstance(stamps, dict)
    )


def _is_time(value: Any) -> bool:
    """Whether a time can be waited for. One at the edge of the calendar has no Unix seconds everywhere."""
    if value is None:
        return True
    try:
        return 1 < datetime.fromisoformat(value).year < datetime.max.year
    except (TypeError, ValueError):
        return False

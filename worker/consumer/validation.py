"""Checks that Celery can run a task call.

Celery trusts the fields that describe a call: its ID, retries and times. A wrong one fails later, in a
place where Celery drops the message, keeps it for ever, or ends the worker. So each call is checked first.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from schemas.fields import is_utf8

MAX_ID_LENGTH = 255
"""Characters. Celery's own IDs have 36; an ID becomes part of keys in Redis."""
MAX_RETRIES = 2**31
NAMES = ("task", "id")
OPTIONAL_NAMES = ("shadow", "root_id", "parent_id", "group", "origin", "lang")
FOLLOWED_BY = ("callbacks", "errbacks", "chain", "chord")


def is_valid(fields: Mapping[str, Any]) -> bool:
    """Whether Celery can run a call that these fields describe."""
    field = fields.get
    for name in NAMES:
        if not _is_name(field(name)):
            return False
    for name in OPTIONAL_NAMES:
        if (value := field(name)) is not None and not _is_name(value):
            return False
    return (
        _is_retries(field("retries"))
        and _is_stamped(field("stamped_headers"), field("stamps"))
        and _is_time(field("eta"))
        and _is_time(field("expires"))
        and all(map(_is_further_call, _further_calls(fields)))
    )


def _is_name(value: Any) -> bool:
    return type(value) is str and 0 < len(value) <= MAX_ID_LENGTH and (value.isascii() or is_utf8(value))


def _further_calls(fields: Mapping[str, Any]) -> list[Any]:
    """The calls that follow this one."""
    calls: list[Any] = []
    for name in FOLLOWED_BY:
        if found := fields.get(name):
            calls += found if name != "chord" and isinstance(found, list | tuple) else (found,)
    return calls


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
    """Whether a time can be waited for. A time at the edge of the calendar has no Unix seconds everywhere."""
    if value is None:
        return True
    try:
        return 1 < datetime.fromisoformat(value).year < datetime.max.year
    except (TypeError, ValueError):
        return False

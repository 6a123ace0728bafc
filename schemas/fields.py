"""The field types that the schemas share.

They are strict, since JSON from another app must mean what it says: `true` is no integer and
`"7"` no number. A single field class holds a user's identities, and not a nested schema with a
field for each: measurements showed that this decides the throughput.
"""

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from marshmallow import ValidationError, fields

INT64 = range(-(2**63), 2**63)
"""The integers that any JSON parser downstream can hold."""

MAX_UNIX_SECONDS = 253_402_300_799
"""9999-12-31T23:59:59Z. Later than that, a time is not meant in seconds."""
MIN_UNIX_MILLISECONDS = 100_000_000_000
"""March 1973. Earlier than that, a time is not meant in milliseconds: as seconds it is the year 5138."""


class StrictInteger(fields.Field[int]):
    """A JSON integer of at most 64 bits."""

    default_error_messages = {"invalid": "not an integer", "range": "does not fit in 64 bits"}

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> int:
        if type(value) is not int:
            raise self.make_error("invalid")
        if value not in INT64:
            raise self.make_error("range")
        return value


class UnixSeconds(StrictInteger):
    """A time in Unix seconds, between 1970 and 9999."""

    default_error_messages = {"before": "not Unix seconds: before 1970"}

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> int:
        if is_unix_seconds(value):
            return int(value)
        seconds = super()._deserialize(value, attr, data)
        if seconds < 0:
            raise self.make_error("before")
        raise ValidationError(f"not Unix seconds: {_unit(seconds)}?")


class UnixMilliseconds(StrictInteger):
    """A time in Unix milliseconds, between 1973 and 9999."""

    default_error_messages = {
        "before": "not Unix milliseconds: before 1970",
        "seconds": "not Unix milliseconds: seconds?",
    }

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> int:
        milliseconds = super()._deserialize(value, attr, data)
        if milliseconds < 0:
            raise self.make_error("before")
        if milliseconds < MIN_UNIX_MILLISECONDS:
            raise self.make_error("seconds")
        if milliseconds // 1000 > MAX_UNIX_SECONDS:
            raise ValidationError(f"not Unix milliseconds: {_unit(milliseconds)}?")
        return milliseconds


UNITS_PER_SECOND = {"milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}


def _unit(value: int) -> str:
    """The coarsest unit finer than seconds in which `value` is a time before the year 10000."""
    fitting = (unit for unit, per in UNITS_PER_SECOND.items() if value // per <= MAX_UNIX_SECONDS)
    return next(fitting, "nanoseconds")


class Text(fields.Field[str]):
    """A JSON string that UTF-8 can hold."""

    default_error_messages = {"invalid": "not a string", "unicode": "not valid Unicode"}

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> str:
        if type(value) is not str:
            raise self.make_error("invalid")
        if not is_utf8(value):
            raise self.make_error("unicode")
        return value


class Identities(fields.Field[dict[str, str]]):
    """A user: identity names to values. Null values are dropped, the order stays.

    The schema that holds the field names the identities that exist, in its attribute `names`.
    """

    default_error_messages = {
        "invalid": "not an object",
        "name": "unknown identity name",
        "value": "an identity that is not a string",
        "unicode": "not valid Unicode",
    }

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any
    ) -> dict[str, str]:
        names: frozenset[str] = self.parent.names  # type: ignore[union-attr]
        user = as_user(value, names)
        if user is None:
            raise self.make_error(_problem_of_user(value, names))
        return user


def is_unix_seconds(value: Any) -> bool:
    """Whether a value is a time in Unix seconds between 1970 and 9999."""
    return type(value) is int and 0 <= value <= MAX_UNIX_SECONDS


def are_names(users: Iterable[Mapping[str, str]], names: frozenset[str]) -> bool:
    """Whether all identities of all users have one of these names."""
    return names.issuperset(chain.from_iterable(users))


def as_user(value: Any, names: frozenset[str]) -> dict[str, str] | None:
    """The user that a value is, without null values; None where it is none."""
    if type(value) is not dict or not names.issuperset(value):
        return None
    try:
        # A single pass in C over what would be a loop over every value of every change.
        return value if is_utf8("".join(value.values())) else None
    except TypeError:
        if None not in value.values():
            return None
        return as_user({name: identity for name, identity in value.items() if identity is not None}, names)


def _problem_of_user(value: Any, names: frozenset[str]) -> str:
    if type(value) is not dict:
        return "invalid"
    if not names.issuperset(value):
        return "name"
    return (
        "unicode"
        if all(identity is None or type(identity) is str for identity in value.values())
        else "value"
    )


def is_utf8(text: str) -> bool:
    """Whether UTF-8 can hold `text`. JSON can spell half a surrogate pair, which UTF-8 cannot."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def one_of(values: frozenset[str], what: str) -> Any:
    """A validator that does not repeat the value it refuses."""

    def validate(value: str) -> None:
        if value not in values:
            raise ValidationError(f"unknown {what}")

    return validate

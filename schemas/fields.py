"""The field types that the schemas share.

Strict, since JSON from another app must mean what it says: `true` is no integer and
`"7"` no number. One class for a user's identities rather than a nested schema of 26
fields: measured, that is what decides the throughput.
"""

from collections.abc import Mapping
from typing import Any

from marshmallow import ValidationError, fields

INT64 = range(-(2**63), 2**63)
"""What any JSON parser downstream can hold."""


class StrictInteger(fields.Field[int]):
    """A JSON integer of at most 64 bits."""

    default_error_messages = {"invalid": "not an integer", "range": "does not fit in 64 bits"}

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> int:
        if type(value) is not int:
            raise self.make_error("invalid")
        if value not in INT64:
            raise self.make_error("range")
        return value


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

    The schema that holds the field says which names there are, in `names`.
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
        if type(value) is not dict:
            raise self.make_error("invalid")
        names: frozenset[str] = self.parent.names  # type: ignore[union-attr]
        if not names.issuperset(value):
            raise self.make_error("name")
        if None in value.values():
            value = {name: identity for name, identity in value.items() if identity is not None}
        try:
            # One pass in C over what would be a loop over every value of every change.
            joined = "".join(value.values())
        except TypeError:
            raise self.make_error("value") from None
        if not is_utf8(joined):
            raise self.make_error("unicode")
        user: dict[str, str] = value
        return user


def is_utf8(text: str) -> bool:
    """Whether `text` can be sent: JSON lets half a surrogate pair in, UTF-8 does not let it out."""
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

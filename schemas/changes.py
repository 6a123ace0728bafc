"""Changes of audience memberships, as other apps enqueue them."""

from collections.abc import Callable
from enum import StrEnum
from typing import Any, NamedTuple

from marshmallow import Schema, ValidationError, validates_schema

from schemas.checking import sentences
from schemas.fields import Identities, StrictInteger, Text, UnixSeconds, one_of
from schemas.identities import Catalogue


class ChangeType(StrEnum):
    """The kinds of change: to a user's membership, or to the whole audience."""

    MEMBER_ADDED = "member_added"
    MEMBER_REMOVED = "member_removed"
    IDENTITY_CHANGED = "identity_changed"
    AUDIENCE_DELETED = "audience_deleted"


class Change(NamedTuple):
    """A checked change. Its `repr` names the audience, never the user."""

    type: str
    audience_id: int
    audience_name: str
    timestamp: int
    """Unix seconds."""
    user_identities: dict[str, str]
    previous_user_identities: dict[str, str]
    first_device_identities: dict[str, str] | None = None
    """Where it tells of a further device of a user: the identities in the change of the first one."""

    def as_item(self) -> dict[str, Any]:
        """Return the change as a caller would enqueue it."""
        item = {
            "type": self.type,
            "audience_id": self.audience_id,
            "audience_external_name": self.audience_name,
            "timestamp": self.timestamp,
            "user_identities": self.user_identities,
        }
        if self.previous_user_identities:
            item["previous_user_identities"] = self.previous_user_identities
        return item

    def __repr__(self) -> str:
        return f"<Change {self.type} of audience {self.audience_id}>"


class Invalid(NamedTuple):
    """An invalid item: its position, the problems (without values), and the item itself."""

    position: int
    problems: list[str]
    item: Any

    def __repr__(self) -> str:
        return f"<Invalid at {self.position}: {'; '.join(self.problems)}>"


PERSONAL = ("timestamp", "user_identities", "previous_user_identities")
"""The keys that differ from user to user. The others say what happened in which audience."""

Event = tuple[tuple[str, type, Any], ...]
"""All that a change says but what is personal; with the types, as `True == 1` to Python."""


class ChangeSchema(Schema):
    """The change of the contract: field types here, the rules between fields in `rules`."""

    error_messages = {"unknown": "unknown key"}

    type = Text(required=True, validate=one_of(frozenset(ChangeType), "type"))
    audience_id = StrictInteger(required=True)
    audience_external_name = Text(allow_none=True)
    audience_internal_name = Text(allow_none=True)
    timestamp = UnixSeconds()
    user_identities = Identities()
    previous_user_identities = Identities()

    def __init__(self, catalogue: Catalogue) -> None:
        self.names = catalogue.names
        super().__init__()
        self._personal_checks = [(name, self.fields[name]._deserialize) for name in PERSONAL]

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def rules(self, change: dict[str, Any], original: Any, **_: Any) -> None:
        """Raise what `_broken` finds."""
        if isinstance(original, dict) and (problems := self._broken(change, original)):
            raise ValidationError(problems)

    def load_known(self, item: Any, known: dict[Event, dict[str, Any]]) -> dict[str, Any]:
        """`load`, at a third of the cost where only the user is new.

        Most changes of a message describe the same event in the same audience. `known` keeps the event
        values that marshmallow accepted, and only the user and the timestamp are checked.
        """
        try:
            event = tuple((key, type(value), value) for key, value in item.items() if key not in PERSONAL)
            loaded = {**known[event], **self._personal(item)}
        except (KeyError, ValidationError, TypeError, AttributeError):
            # Not seen before, wrong, unhashable, no object at all: `load` says which.
            loaded = self.load(item)
            known[event] = {key: value for key, value in loaded.items() if key not in PERSONAL}
        else:
            if self._broken(loaded, item):
                loaded = self.load(item)
        return loaded

    def _personal(self, item: dict[str, Any]) -> dict[str, Any]:
        # These fields have no validators and allow no null: their own check is all of it.
        return {name: check(item[name], name, item) for name, check in self._personal_checks if name in item}

    def _broken(self, change: dict[str, Any], original: dict[str, Any]) -> dict[str, list[str]]:
        """The rules between fields that a change breaks.

        A field that is wrong in itself is in `original` and not in `change`.
        """
        kind = change.get("type")
        problems: dict[str, list[str]] = {}
        if not (change.get("audience_external_name") or change.get("audience_internal_name")):
            problems["audience_external_name"] = ["required, or audience_internal_name, and not empty"]
        if kind != ChangeType.AUDIENCE_DELETED and _is_empty(change, original, "user_identities"):
            problems["user_identities"] = ["required, with at least one identity"]
        if kind == ChangeType.IDENTITY_CHANGED:
            if _is_empty(change, original, "previous_user_identities"):
                problems["previous_user_identities"] = ["required, with at least one identity"]
        elif "previous_user_identities" in original:
            problems["previous_user_identities"] = ["only for identity_changed"]
        return problems


def _is_empty(change: dict[str, Any], original: dict[str, Any], user: str) -> bool:
    return not change.get(user) and (user in change or user not in original)


def check_changes(
    schema: ChangeSchema, items: list[Any], received_at: Callable[[], int]
) -> tuple[list[Change], list[Invalid]]:
    """Part the changes to forward, in their order, from the invalid ones.

    `received_at` is asked for Unix seconds where a change has no timestamp.
    """
    changes: list[Change] = []
    invalid: list[Invalid] = []
    known: dict[Event, dict[str, Any]] = {}
    for position, item in enumerate(items):
        try:
            changes.append(_change(schema.load_known(item, known), received_at))
        except ValidationError as error:
            invalid.append(Invalid(position, sentences(schema, error), item))
    return changes, invalid


def _change(loaded: dict[str, Any], received_at: Callable[[], int]) -> Change:
    return Change(
        loaded["type"],
        loaded["audience_id"],
        loaded.get("audience_external_name") or loaded["audience_internal_name"],
        loaded["timestamp"] if "timestamp" in loaded else received_at(),
        loaded.get("user_identities", {}),
        loaded.get("previous_user_identities", {}),
    )

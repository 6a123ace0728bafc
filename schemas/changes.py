"""Changes of audience memberships, as other apps enqueue them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

from marshmallow import Schema, ValidationError, validates_schema

from schemas.checking import sentences
from schemas.fields import (
    Identities,
    StrictInteger,
    Text,
    UnixSeconds,
    are_unix_seconds,
    are_users,
    as_user,
    is_unix_seconds,
    one_of,
)
from schemas.identities import Catalogue


class ChangeType(StrEnum):
    """The kinds of change: to a user's membership, or to the whole audience."""

    MEMBER_ADDED = "member_added"
    MEMBER_REMOVED = "member_removed"
    IDENTITY_CHANGED = "identity_changed"
    AUDIENCE_DELETED = "audience_deleted"


MEMBER_ADDED, MEMBER_REMOVED, IDENTITY_CHANGED, AUDIENCE_DELETED = ChangeType
"""For what is done for each change: Python 3.11 takes 0.15 µs to look up an attribute of an enumeration."""


@dataclass(slots=True, repr=False)
class Change:
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


KNOWN_EVENTS = 16_384
"""Two for each of 8,000 audiences, at 330 bytes each. An event that is not known costs 20 µs."""
KNOWN_NAME_LENGTH = 256
"""Characters of an audience's name. What is known of events stays below some megabytes."""
PERSONAL = ("timestamp", "user_identities", "previous_user_identities")
"""The keys that differ from user to user. The others tell an event: what happened in which audience."""

NOBODY: Any = object()
"""In place of the previous user of a change that tells of none."""


class Event(NamedTuple):
    """The values of an item's keys, except the personal ones, as marshmallow has read them."""

    type: str
    audience_id: int
    audience_name: str


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
        self._events = KnownEvents()

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def rules(self, change: dict[str, Any], original: Any, **_: Any) -> None:
        """Raise what `_broken` finds."""
        if isinstance(original, dict) and (problems := self._broken(change, original)):
            raise ValidationError(problems)

    def read(self, item: Any, received_at: Callable[[], int]) -> Change:
        """The change that an item holds. Raises `ValidationError`.

        `received_at` is asked for Unix seconds where the change has no timestamp.

        An item that tells a known event costs a twentieth: marshmallow has accepted all of it but the users
        and the timestamp, which are checked by the functions that their fields begin with. Where the event
        is new or anything is wrong, marshmallow says what it is.
        """
        event = self._events.find(item)
        if event is None:
            return self._read(item, received_at)
        user = as_user(item.get("user_identities"), self.names)
        previous_user: dict[str, str] | None = {}
        if "previous_user_identities" in item:
            previous_user = as_user(item["previous_user_identities"], self.names) or None
        if not user or previous_user is None:
            return self._read(item, received_at)
        timestamp = item["timestamp"] if "timestamp" in item else received_at()
        if not is_unix_seconds(timestamp):
            return self._read(item, received_at)
        return Change(event.type, event.audience_id, event.audience_name, timestamp, user, previous_user)

    def read_together(self, items: Sequence[Any], received_at: Callable[[int], int]) -> list[Change] | None:
        """The changes of items as `read` reads them; None where it must look at one of them alone.

        All users, and all timestamps, are checked at once. `received_at` is asked for Unix seconds where the
        change at a position has no timestamp.
        """
        events = [event for item in items if (event := self._events.find(item))]
        if len(events) < len(items):
            return None
        users = [item.get("user_identities") for item in items]
        previous_users = [item.get("previous_user_identities", NOBODY) for item in items]
        timestamps = [
            item["timestamp"] if "timestamp" in item else received_at(position)
            for position, item in enumerate(items)
        ]
        others = (user for user in previous_users if user is not NOBODY)
        if not (are_users(chain(users, others), self.names) and are_unix_seconds(timestamps)):
            return None
        return [
            Change(kind, audience_id, name, timestamp, user, {} if previous_user is NOBODY else previous_user)
            for (kind, audience_id, name), timestamp, user, previous_user in zip(
                events, timestamps, users, previous_users, strict=True
            )
        ]

    def _read(self, item: Any, received_at: Callable[[], int]) -> Change:
        loaded: dict[str, Any] = self.load(item)
        event = Event(
            loaded["type"],
            loaded["audience_id"],
            loaded.get("audience_external_name") or loaded["audience_internal_name"],
        )
        if event.type != AUDIENCE_DELETED:
            self._events.add(item, event)
        return Change(
            *event,
            loaded["timestamp"] if "timestamp" in loaded else received_at(),
            loaded.get("user_identities", {}),
            loaded.get("previous_user_identities", {}),
        )

    def _broken(self, change: dict[str, Any], original: dict[str, Any]) -> dict[str, list[str]]:
        """The rules between fields that a change breaks.

        A field that is wrong in itself is in `original` and not in `change`.
        """
        kind = change.get("type")
        problems: dict[str, list[str]] = {}
        if not (change.get("audience_external_name") or change.get("audience_internal_name")):
            problems["audience_external_name"] = ["required, or audience_internal_name, and not empty"]
        if kind != AUDIENCE_DELETED and _is_empty(change, original, "user_identities"):
            problems["user_identities"] = ["required, with at least one identity"]
        if kind == IDENTITY_CHANGED:
            if _is_empty(change, original, "previous_user_identities"):
                problems["previous_user_identities"] = ["required, with at least one identity"]
        elif "previous_user_identities" in original:
            problems["previous_user_identities"] = ["only for identity_changed"]
        return problems


class KnownEvents:
    """Events of users that marshmallow has accepted, by the keys and values of their items.

    Most changes repeat an event that was read before, and differ in the user and the time.
    """

    def __init__(self) -> None:
        self._by_keys: dict[tuple[str, ...], tuple[Callable[[Any], tuple[Any, ...]], dict[Any, Event]]] = {}
        self._count = 0

    def find(self, item: Any) -> Event | None:
        """The event that an item tells, if an item with the same keys and values was accepted."""
        if type(item) is not dict:
            return None
        try:
            values_of, events = self._by_keys[tuple(item)]
            event = events[values_of(item)]
        except (KeyError, TypeError):
            # Another event, or an unhashable value.
            return None
        # 1 == True == 1.0 to Python. No other value of an event is a number.
        return event if type(item["audience_id"]) is int else None

    def add(self, item: dict[str, Any], event: Event) -> None:
        """Remember the event of an accepted item."""
        values_of = itemgetter(*(key for key in item if key not in PERSONAL))
        values = values_of(item)
        if any(isinstance(value, str) and len(value) > KNOWN_NAME_LENGTH for value in values):
            return
        if self._count == KNOWN_EVENTS:
            self._by_keys.clear()
            self._count = 0
        self._by_keys.setdefault(tuple(item), (values_of, {}))[1][values] = event
        self._count += 1


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
    for position, item in enumerate(items):
        try:
            changes.append(schema.read(item, received_at))
        except ValidationError as error:
            invalid.append(Invalid(position, sentences(schema, error), item))
    return changes, invalid

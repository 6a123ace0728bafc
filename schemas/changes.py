"""Changes of audience memberships, as other apps enqueue them."""

from collections.abc import Callable, Sequence, Set
from enum import StrEnum
from itertools import chain
from operator import attrgetter
from typing import Annotated, Any, Literal, NamedTuple

from marshmallow import Schema, ValidationError, validates_schema
from msgspec import Meta, MsgspecError, Struct, convert

from schemas.checking import sentences
from schemas.fields import (
    INT64,
    MAX_UNIX_SECONDS,
    Identities,
    StrictInteger,
    Text,
    UnixSeconds,
    are_names,
    is_utf8,
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


NO_TIMESTAMP = -1
"""The timestamp of a change without one, until it has the time at which it was received."""
TypeName = Literal["member_added", "member_removed", "identity_changed", "audience_deleted"]
Event = tuple[TypeName, int, str | None, str | None]
"""All that a change tells but for the user and the time: type, audience, and its two names. Most share it."""
UserIdentities = dict[str, str]


class Change(Struct, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """A change. Its `repr` names the audience, never the user.

    The fields are those of an item, so that msgspec can read one. What the types here do not say, whether
    identities are known and which fields a type of change has, `ChangeSchema` checks.
    """

    type: TypeName
    audience_id: Annotated[int, Meta(ge=INT64.start, le=INT64.stop - 1)]
    audience_external_name: str | None = None
    audience_internal_name: str | None = None
    timestamp: Annotated[int, Meta(ge=0, le=MAX_UNIX_SECONDS)] = NO_TIMESTAMP
    """Unix seconds."""
    user_identities: UserIdentities = {}
    previous_user_identities: Annotated[UserIdentities, Meta(min_length=1)] = {}

    @property
    def audience_name(self) -> str:
        """The external name, if it has one; else the internal one."""
        return self.audience_external_name or self.audience_internal_name or ""

    def as_item(self) -> dict[str, Any]:
        """Return the change as a caller would enqueue it."""
        further = {
            "audience_internal_name": self.audience_internal_name,
            "previous_user_identities": self.previous_user_identities,
        }
        return {
            "type": self.type,
            "audience_id": self.audience_id,
            "audience_external_name": self.audience_external_name,
            "timestamp": self.timestamp,
            "user_identities": self.user_identities,
        } | {key: value for key, value in further.items() if value}

    def __repr__(self) -> str:
        return f"<Change {self.type} of audience {self.audience_id}>"


class DeviceChange(Change, gc=False):
    """A change that tells of a further device of a user. No item holds one."""

    first_device_identities: UserIdentities = {}
    """The identities in the change of the first device."""


class Invalid(NamedTuple):
    """An invalid item: its position, the problems (without values), and the item itself."""

    position: int
    problems: list[str]
    item: Any

    def __repr__(self) -> str:
        return f"<Invalid at {self.position}: {'; '.join(self.problems)}>"


class Arguments(Struct, gc=False, forbid_unknown_fields=True):
    """The arguments of `audience.forward`."""

    changes: list[Change]


CONVERSION_ERRORS = (MsgspecError, UnicodeEncodeError)
"""The latter for half a surrogate pair, which Python's JSON can spell, where it is met."""
EVENT = attrgetter("type", "audience_id", "audience_external_name", "audience_internal_name")
"""The `Event` of a change."""
USER_KEYS = ("user_identities", "previous_user_identities")
MEMBERSHIPS = frozenset({MEMBER_ADDED, MEMBER_REMOVED})
"""The types of most changes: those that tell of one user."""


def fill_timestamps(changes: list[Change], received_at: Callable[[], int]) -> list[Change]:
    """Give those changes that have no timestamp the time of receipt, Unix seconds. Returns the changes."""
    for change in changes:
        if change.timestamp == NO_TIMESTAMP:
            change.timestamp = received_at()
    return changes


def as_changes(arguments: Any) -> list[Change] | None:
    """The changes in the arguments of `audience.forward`; None where `ChangeSchema.read` is to look at each.

    `ChangeSchema.are_valid` has not checked these changes yet.
    """
    try:
        return convert(arguments, Arguments).changes
    except CONVERSION_ERRORS:
        return None


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

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def rules(self, change: dict[str, Any], original: Any, **_: Any) -> None:
        """Raise what `_broken` finds."""
        if isinstance(original, dict) and (problems := self._broken(change, original)):
            raise ValidationError(problems)

    def read(self, item: Any, received_at: Callable[[], int]) -> Change:
        """The change that an item holds. Raises `ValidationError`.

        `received_at` is asked for Unix seconds where the change has no timestamp.

        A valid item costs a twentieth of what marshmallow takes, which is asked where anything may be wrong,
        and says what it is.
        """
        change = self._read_valid(item) or self._read_valid(_without_nulls(item))
        if change is None:
            change = self._read(item)
        if change.timestamp == NO_TIMESTAMP:
            change.timestamp = received_at()
        return change

    def are_valid(self, changes: Sequence[Change], events: Set[Event] | None = None) -> bool:
        """Whether `read` would read the items of these changes alike. Their texts are valid Unicode.

        `events` are those of the changes, where they are known.
        """
        if events is None:
            events = set(map(EVENT, changes))
        users = [change.user_identities for change in changes]
        previous_users = [user for change in changes if (user := change.previous_user_identities)]
        if not (are_names(users, self.names) and are_names(previous_users, self.names)):
            return False
        if not previous_users and all(users) and MEMBERSHIPS.issuperset(kind for kind, *_ in events):
            # Most changes.
            return all(external or internal for _, _, external, internal in events)
        return all(map(_obeys_rules, changes))

    def _read_valid(self, item: Any) -> Change | None:
        """The change that a valid item holds; None where marshmallow must look."""
        try:
            change = convert(item, Change)
        except CONVERSION_ERRORS:
            return None
        users = (change.user_identities, change.previous_user_identities)
        names = (change.audience_external_name or "", change.audience_internal_name or "")
        is_text = is_utf8("".join(chain(names, *map(dict.values, users))))
        return change if is_text and are_names(users, self.names) and _obeys_rules(change) else None

    def _read(self, item: Any) -> Change:
        loaded: dict[str, Any] = self.load(item)
        return Change(**loaded)

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


def _obeys_rules(change: Change) -> bool:
    """Whether a change obeys the rules between its fields; `ChangeSchema.rules` says which it breaks."""
    if not change.audience_name:
        return False
    if change.type == AUDIENCE_DELETED:
        return not change.previous_user_identities
    is_identity_change = change.type == IDENTITY_CHANGED
    return bool(change.user_identities) and bool(change.previous_user_identities) == is_identity_change


def _without_nulls(item: Any) -> Any:
    """An item without the identities of its users that are null, which a schema drops."""
    if type(item) is not dict:
        return item
    return {
        key: {name: identity for name, identity in value.items() if identity is not None}
        if key in USER_KEYS and type(value) is dict
        else value
        for key, value in item.items()
    }


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

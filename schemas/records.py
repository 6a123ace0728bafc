"""The records that a stream receives: a change, as a connection forwards it, as bytes.

A record is rendered once, here. Nothing downstream looks inside it.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

import orjson
from marshmallow import Schema, fields

from schemas.changes import Change, ChangeType

SCHEMA_VERSION = 1
"""The version of records with metadata. It grows when a consumer has to read them differently."""


class Skip(StrEnum):
    """Why a record is not sent. The closed set of counters behind `status`."""

    NO_CONNECTION = "no_connection"
    """The audience has no connection."""
    ANONYMOUS = "anonymous"
    """The connection forwards no users of whom nothing but the MPID is known."""
    NO_IDENTITIES = "no_identities"
    """The connection's exclusions leave nothing of the user."""
    UNCHANGED = "unchanged"
    """An identity change of which the connection's exclusions leave nothing changed."""
    ATTRIBUTE_UPDATE = "attribute_update"
    """mParticle sent user attributes, which is no membership change."""
    UNNAMED_IDENTITY = "unnamed_identity"
    """mParticle sent an identity of a type that has no name in a record."""
    FURTHER_VALUE = "further_value"
    """mParticle sent a second value of an identity of which the record holds one, or none."""
    REPEATED = "repeated"
    """The message came again after it was done with: the same task id with the same content."""
    SUBSCRIPTION = "subscription"
    """mParticle sent a new or changed subscription, which is no membership change."""


class Projection(NamedTuple):
    """The settings of a connection and its configuration that decide how a record looks."""

    excluded: frozenset[str]
    """Configured names of the identities that this connection does not forward."""
    anonymous_name: str
    send_anonymous_users: bool
    send_remove_on_identity_change: bool
    append_newline: bool
    include_metadata: bool = False


class Stamp:
    """The metadata of one message's records: where they stand in the order of all changes.

    A record's place in its message is twice the position of its change, and one more for the addition
    of an identity change. It ends both the record's ChangeId and its SequenceNumber.
    """

    def __init__(self, message_id: str, number: int) -> None:
        """`message_id` is a UUID; `number` is greater than those of all messages before."""
        self._metadata = (
            f',"ChangeId":"{message_id.replace("-", "")}-%08d",'
            f'"SequenceNumber":"{number:016d}%08d","SchemaVersion":{SCHEMA_VERSION}}}'
        ).encode()

    def metadata(self, place: int) -> bytes:
        """The last three keys of the record at a place of the message, and its closing brace."""
        return self._metadata % (place, place)


EXAMPLE_STAMP = Stamp("0" * 32, 0)
"""For a record that is only shown."""


class Rendered(NamedTuple):
    """A change as records."""

    lines: tuple[bytes, ...]
    """None, one, or a removal and the addition that follows it."""
    skipped: tuple[Skip, ...]
    """Why records are missing."""


@dataclass(slots=True)
class Record:
    """The content of a record. Holds identity values, so its `repr` does not show them."""

    timestamp: int
    audience_id: int
    audience_name: str
    is_member: bool
    user_identities: dict[str, str] = field(repr=False)


class RecordSchema(Schema):
    """The record of the contract, in its key order."""

    timestamp = fields.String(data_key="MembershipChangedTimestamp")
    audience_id = fields.Raw(data_key="AudienceId")
    audience_name = fields.Raw(data_key="AudienceName")
    is_member = fields.Raw(data_key="IsMember")
    user_identities = fields.Raw(data_key="UserIdentities")


class DeletionSchema(RecordSchema):
    """The record that tells of an audience's end."""

    is_deleted = fields.Constant(True, data_key="IsDeleted")


RECORD = RecordSchema()
DELETION = DeletionSchema()

EMPTY = b"{}"
NO_USER = b'"UserIdentities":' + EMPTY
"""A user without identities in a record. No name holds it: JSON escapes a name's quotation marks."""
AROUND_USER_KNOWN = 1024
"""Records whose surroundings of the user are known. Those of a message mostly differ in the user alone."""
KNOWN_NAME_LENGTH = 1000
"""Characters. What is known of records stays below some megabytes."""


def render(
    change: Change, projection: Projection, stamp: Stamp = EXAMPLE_STAMP, position: int = 0
) -> Rendered:
    """The records that a connection with this projection receives for a change.

    `position` is the change's position in its message, whose stamp it is.
    """
    first = stamp.metadata(2 * position) if projection.include_metadata else b""
    if change.type == ChangeType.AUDIENCE_DELETED:
        return Rendered((_line(change, False, {}, projection, first),), ())
    user = _forwarded(change.user_identities, projection)
    if change.first_device_identities is not None and user == _forwarded(
        change.first_device_identities, projection
    ):
        return Rendered((), (Skip.FURTHER_VALUE,))
    if change.type != ChangeType.IDENTITY_CHANGED:
        return _rendered(_membership(change, change.type == ChangeType.MEMBER_ADDED, user, projection, first))
    previous_user = _forwarded(change.previous_user_identities, projection)
    if user and user == previous_user:
        return Rendered((), (Skip.UNCHANGED,))
    second = stamp.metadata(2 * position + 1) if projection.include_metadata else b""
    addition = _membership(change, True, user, projection, second)
    if not projection.send_remove_on_identity_change:
        return _rendered(addition)
    return _rendered(_membership(change, False, previous_user, projection, first), addition)


def _forwarded(user: dict[str, str], projection: Projection) -> dict[str, str]:
    """The identities of a user that the connection forwards."""
    if not projection.excluded:
        return user
    return {name: value for name, value in user.items() if name not in projection.excluded}


def _membership(
    change: Change, is_member: bool, user: dict[str, str], projection: Projection, metadata: bytes
) -> bytes | Skip:
    if not user:
        return Skip.NO_IDENTITIES
    if not projection.send_anonymous_users and _is_anonymous(user, projection):
        return Skip.ANONYMOUS
    return _line(change, is_member, user, projection, metadata)


def _is_anonymous(user: dict[str, str], projection: Projection) -> bool:
    """Whether nothing but the MPID tells who the user is. An empty value tells nothing."""
    return not any(value for name, value in user.items() if name != projection.anonymous_name)


def _line(
    change: Change, is_member: bool, user: dict[str, str], projection: Projection, metadata: bytes
) -> bytes:
    schema = DELETION if change.type == ChangeType.AUDIENCE_DELETED else RECORD
    around_user = _known_around_user if len(change.audience_name) <= KNOWN_NAME_LENGTH else _around_user
    before, after = around_user(schema, change.timestamp, change.audience_id, change.audience_name, is_member)
    # Metadata has the closing brace, too.
    line = before + orjson.dumps(user) + (after[:-1] + metadata if metadata else after)
    return line + b"\n" if projection.append_newline else line


def _around_user(
    schema: RecordSchema, timestamp: int, audience_id: int, audience_name: str, is_member: bool
) -> tuple[bytes, bytes]:
    """What stands before and after the user in a record, from the schema's dump of one without a user."""
    content = schema.dump(Record(timestamp, audience_id, audience_name, is_member, {}))
    before, user_identities, after = orjson.dumps(content).rpartition(NO_USER)
    return before + user_identities[: -len(EMPTY)], after


_known_around_user = lru_cache(AROUND_USER_KNOWN, typed=True)(_around_user)


def _rendered(*outcomes: bytes | Skip) -> Rendered:
    return Rendered(
        tuple(line for line in outcomes if isinstance(line, bytes)),
        tuple(skip for skip in outcomes if isinstance(skip, Skip)),
    )

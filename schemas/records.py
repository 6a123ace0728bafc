"""What a stream receives: a change, seen through a connection, as bytes.

A record is rendered once, here. Nobody downstream looks inside it.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

import orjson
from marshmallow import Schema, fields

from schemas.changes import Change, ChangeType


class Skip(StrEnum):
    """Why a record is not sent. The closed set of counters behind `status`."""

    NO_CONNECTION = "no_connection"
    """The audience has no connection."""
    ANONYMOUS = "anonymous"
    """The connection forwards no users known by their MPID alone."""
    NO_IDENTITIES = "no_identities"
    """The connection's exclusions leave nothing of the user."""
    ATTRIBUTE_UPDATE = "attribute_update"
    """mParticle told of user attributes, which is no membership change."""
    UNNAMED_IDENTITY = "unnamed_identity"
    """mParticle sent an identity of a type that has no name in a record."""
    FURTHER_VALUE = "further_value"
    """mParticle sent a second value of an identity of which a record holds one."""
    REPEATED = "repeated"
    """The message came again after it was done with: the same task id with the same content."""
    SUBSCRIPTION = "subscription"
    """mParticle told of a new or changed subscription, which is no membership change."""


class Projection(NamedTuple):
    """All that a connection and its configuration say about the looks of a record."""

    excluded: frozenset[str]
    """Identity names, as in force, that this connection does not forward."""
    anonymous_name: str
    send_anonymous_users: bool
    send_remove_on_identity_change: bool
    append_newline: bool


class Rendered(NamedTuple):
    """A change as records."""

    lines: tuple[bytes, ...]
    """None, one, or a removal and the addition that follows it, never to be parted."""
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


def render(change: Change, projection: Projection) -> Rendered:
    """The records that a connection with this view receives for a change."""
    if change.type == ChangeType.AUDIENCE_DELETED:
        return Rendered((_line(change, False, {}, projection, DELETION),), ())
    if change.type != ChangeType.IDENTITY_CHANGED:
        is_member = change.type == ChangeType.MEMBER_ADDED
        return _rendered(_membership(change, is_member, change.user_identities, projection))
    addition = _membership(change, True, change.user_identities, projection)
    if not projection.send_remove_on_identity_change:
        return _rendered(addition)
    return _rendered(_membership(change, False, change.previous_user_identities, projection), addition)


def _membership(
    change: Change, is_member: bool, user: dict[str, str], projection: Projection
) -> bytes | Skip:
    if projection.excluded:
        user = {name: value for name, value in user.items() if name not in projection.excluded}
    if not user:
        return Skip.NO_IDENTITIES
    if not projection.send_anonymous_users and user.keys() == {projection.anonymous_name}:
        return Skip.ANONYMOUS
    return _line(change, is_member, user, projection, RECORD)


def _line(
    change: Change, is_member: bool, user: dict[str, str], projection: Projection, schema: Schema
) -> bytes:
    record = Record(change.timestamp, change.audience_id, change.audience_name, is_member, user)
    content: dict[str, Any] = schema.dump(record)
    return orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE if projection.append_newline else None)


def _rendered(*outcomes: bytes | Skip) -> Rendered:
    return Rendered(
        tuple(line for line in outcomes if isinstance(line, bytes)),
        tuple(skip for skip in outcomes if isinstance(skip, Skip)),
    )

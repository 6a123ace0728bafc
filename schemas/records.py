"""The records that a stream receives: a change, as a connection forwards it, as bytes.

A record is rendered once, here. Nothing downstream looks inside it.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

import orjson
from marshmallow import Schema, fields

from schemas.changes import (
    AUDIENCE_DELETED,
    IDENTITY_CHANGED,
    MEMBER_ADDED,
    Change,
    DeviceChange,
)

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
        )

    def metadata(self, place: int) -> str:
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

    def __repr__(self) -> str:
        return f"<Rendered {len(self.lines)} lines>"


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

NO_TIME = '"MembershipChangedTimestamp":"0"'
"""The first key of a record."""
NO_USER = '"UserIdentities":{}'
"""A user without identities in a record. No name holds it: JSON escapes a name's quotation marks."""
KNOWN_TEMPLATES = 16_384
"""Two for each of 8,000 audiences, at 450 bytes each."""
KNOWN_NAME_LENGTH = 256
"""Characters of an audience's name. What is known of audiences stays below some megabytes."""


class Template(NamedTuple):
    """A record whose timestamp, user and metadata are left open."""

    before: str
    """The text before the timestamp."""
    between: str
    """The text between the timestamp and the user."""
    after: str
    """The text behind the user; where metadata follow, without the closing brace, which they have, too."""


class Renderer:
    """Renders changes as the connections with one projection receive them."""

    def __init__(self, projection: Projection) -> None:
        self._projection = projection
        self.includes_metadata = projection.include_metadata
        self.forwards_all = not projection.excluded and projection.send_anonymous_users
        """Whether each added or removed user that has an identity becomes a record, as it is."""
        self._newline = "\n" if projection.append_newline else ""
        self._templates: dict[tuple[RecordSchema, int, str, bool], Template] = {}

    def template(
        self, audience_id: int, audience_name: str, is_member: bool, schema: RecordSchema = RECORD
    ) -> Template:
        """The record of a user's membership, or another record of the audience."""
        key = (schema, audience_id, audience_name, is_member)
        if template := self._templates.get(key):
            return template
        make = _known_record_template if len(audience_name) <= KNOWN_NAME_LENGTH else _record_template
        template = make(*key)
        after = template.after[:-1] if self.includes_metadata else template.after + self._newline
        return self._templates.setdefault(key, template._replace(after=after))

    def end(self, stamp: Stamp, place: int) -> str:
        """The text behind the template, of a record with metadata."""
        return f"{stamp.metadata(place)}{self._newline}" if self.includes_metadata else ""

    def render(
        self, change: Change, stamp: Stamp, position: int
    ) -> tuple[tuple[bytes, ...], tuple[Skip, ...]]:
        """The content of a `Rendered`. `position` is the change's in its message, whose stamp it is."""
        if change.type == AUDIENCE_DELETED:
            template = self.template(change.audience_id, change.audience_name, False, DELETION)
            return (self._line(template, change, {}, stamp, 2 * position),), ()
        user = self._forwarded(change.user_identities)
        if isinstance(change, DeviceChange) and user == self._forwarded(change.first_device_identities):
            return (), (Skip.FURTHER_VALUE,)
        if change.type == IDENTITY_CHANGED:
            return self._render_identity_change(change, user, stamp, position)
        if skip := self._skip_reason(user):
            return (), (skip,)
        is_member = change.type == MEMBER_ADDED
        template = self.template(change.audience_id, change.audience_name, is_member)
        return (self._line(template, change, user, stamp, 2 * position),), ()

    def _render_identity_change(
        self, change: Change, user: dict[str, str], stamp: Stamp, position: int
    ) -> tuple[tuple[bytes, ...], tuple[Skip, ...]]:
        previous_user = self._forwarded(change.previous_user_identities)
        if user and user == previous_user:
            return (), (Skip.UNCHANGED,)
        memberships = [(True, user, 2 * position + 1)]
        if self._projection.send_remove_on_identity_change:
            memberships.insert(0, (False, previous_user, 2 * position))
        lines: list[bytes] = []
        skipped: list[Skip] = []
        for is_member, who, place in memberships:
            if skip := self._skip_reason(who):
                skipped.append(skip)
            else:
                template = self.template(change.audience_id, change.audience_name, is_member)
                lines.append(self._line(template, change, who, stamp, place))
        return tuple(lines), tuple(skipped)

    def _forwarded(self, user: dict[str, str]) -> dict[str, str]:
        """The identities of a user that the connection forwards."""
        if not self._projection.excluded:
            return user
        return {name: value for name, value in user.items() if name not in self._projection.excluded}

    def _skip_reason(self, user: dict[str, str]) -> Skip | None:
        if not user:
            return Skip.NO_IDENTITIES
        if not self._projection.send_anonymous_users and self._is_anonymous(user):
            return Skip.ANONYMOUS
        return None

    def _is_anonymous(self, user: dict[str, str]) -> bool:
        """Whether nothing but the MPID tells who the user is. An empty value tells nothing."""
        return not any(value for name, value in user.items() if name != self._projection.anonymous_name)

    def _line(
        self, template: Template, change: Change, user: dict[str, str], stamp: Stamp, place: int
    ) -> bytes:
        before, between, after = template
        text = orjson.dumps(user).decode()
        return f"{before}{change.timestamp}{between}{text}{after}{self.end(stamp, place)}".encode()


def render(
    change: Change, projection: Projection, stamp: Stamp = EXAMPLE_STAMP, position: int = 0
) -> Rendered:
    """The records that a connection with this projection receives for a change.

    `position` is the change's position in its message, whose stamp it is.
    """
    return Rendered(*Renderer(projection).render(change, stamp, position))


def _record_template(schema: RecordSchema, audience_id: int, audience_name: str, is_member: bool) -> Template:
    """The schema's dump of a record."""
    content = schema.dump(Record(0, audience_id, audience_name, is_member, {}))
    head, _, after = orjson.dumps(content).decode().rpartition(NO_USER)
    before, between = head.split(NO_TIME, 1)
    return Template(before + NO_TIME[:-2], '"' + between + NO_USER[:-2], after)


_known_record_template = lru_cache(KNOWN_TEMPLATES, typed=True)(_record_template)

"""What mParticle's Firehose SDK sends: an `AudienceMembershipChangeRequest`, as changes.

The request is taken as it stands, so keys we do not need are not looked at. The
shape is that of the SDK's published sample and JSON schema.
"""

from collections import Counter
from typing import Any, NamedTuple

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate

from schemas.changes import Change, ChangeType, Invalid
from schemas.checking import check, sentences
from schemas.fields import StrictInteger, Text
from schemas.identities import Catalogue
from schemas.records import Skip

MPID_TYPE = "mpid"
"""The SDK gives the mParticle ID a key of its own; the catalogue lists it under this type."""

MEMBERSHIP = {"add": ChangeType.MEMBER_ADDED, "delete": ChangeType.MEMBER_REMOVED}
ATTRIBUTE_UPDATE = "attribute_update"

ANYTHING = fields.Raw(allow_none=True)
"""An entry that is looked at later, by itself. A null among them is wrong alone, and not the whole list."""


class Translated(NamedTuple):
    """A request as changes."""

    changes: list[Change]
    invalid: list[Invalid]
    """Profiles that are wrong, or a profile with just those of its audiences that are."""
    skipped: Counter[Skip]


class _Excluding(Schema):
    class Meta:
        unknown = EXCLUDE


class IdentitySchema(_Excluding):
    """One identity of a user or a device; hashed values are forwarded as they are."""

    type = Text(required=True)
    value = Text(required=True, allow_none=True)


class AudienceSchema(_Excluding):
    """What happened to the user in one audience."""

    audience_id = StrictInteger(required=True)
    audience_name = Text(required=True, validate=validate.Length(min=1, error="empty"))
    action = Text(required=True, validate=validate.OneOf([*MEMBERSHIP, ATTRIBUTE_UPDATE], error="unknown"))


class ProfileSchema(_Excluding):
    """A user. Its audiences are checked one by one, after it."""

    user_identities = fields.List(fields.Nested(IdentitySchema), allow_none=True)
    device_identities = fields.List(fields.Nested(IdentitySchema), allow_none=True)
    partner_identities = fields.List(ANYTHING, allow_none=True)
    mpid = Text(allow_none=True)
    audiences = fields.List(ANYTHING, allow_none=True)


class RequestSchema(_Excluding):
    """The envelope. Its profiles are checked one by one, after it."""

    timestamp_ms = StrictInteger(required=True)
    user_profiles = fields.List(ANYTHING, required=True)


REQUEST, PROFILE, AUDIENCE = RequestSchema(), ProfileSchema(), AudienceSchema()


def translate(request: Any, catalogue: Catalogue) -> Translated:
    """The `add` and `delete` actions of a request as changes, in their order."""
    try:
        envelope = REQUEST.load(request)
    except ValidationError as error:
        return Translated([], [Invalid(0, sentences(REQUEST, error), request)], Counter())
    timestamp = envelope["timestamp_ms"] // 1000
    profiles = envelope["user_profiles"]
    valid, problems = check(PROFILE, profiles)
    translated = Translated([], [Invalid(i, problems[i], profiles[i]) for i in problems], Counter())
    for position, profile in valid:
        user, unnamed = _user(profile, catalogue)
        translated.skipped[Skip.UNNAMED_IDENTITY] += unnamed
        audiences = profile.get("audiences") or []
        translatable, wrong = check(AUDIENCE, audiences)
        for _, audience in translatable:
            _add(audience, timestamp, user, translated)
        if wrong:
            alone = {**profiles[position], "audiences": [audiences[i] for i in wrong]}
            what = sorted({f"audiences: {problem}" for found in wrong.values() for problem in found})
            translated.invalid.append(Invalid(position, what, alone))
    return translated


def _add(audience: dict[str, Any], timestamp: int, user: dict[str, str], to: Translated) -> None:
    """What one audience's entry of a profile says."""
    kind = MEMBERSHIP.get(audience["action"])
    if kind is None:
        to.skipped[Skip.ATTRIBUTE_UPDATE] += 1
    else:
        to.changes.append(
            Change(kind, audience["audience_id"], audience["audience_name"], timestamp, user, {})
        )


def _user(profile: dict[str, Any], catalogue: Catalogue) -> tuple[dict[str, str], int]:
    """A profile's identities by the names in force, and how many have no name.

    Where a type comes twice, the first one counts: a record can hold but one. A partner's
    own identities have no names in a record.
    """
    user: dict[str, str] = {}
    unnamed = len(profile.get("partner_identities") or [])
    given = [*(profile.get("user_identities") or []), *(profile.get("device_identities") or [])]
    if profile.get("mpid"):
        given.append({"type": MPID_TYPE, "value": profile["mpid"]})
    for identity in given:
        name = catalogue.by_mparticle_type.get(identity["type"])
        if name is None or name in user:
            unnamed += 1
        elif identity["value"] is not None:
            user[name] = identity["value"]
    return user, unnamed

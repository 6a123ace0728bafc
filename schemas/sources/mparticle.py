"""The requests of mParticle's Firehose SDK that tell of audiences, as changes.

A request is taken as it stands, so keys that are not needed are not looked at. The shapes are those
of the SDK's classes, JSON schemas and published samples (mparticle-firehose-java-sdk 3.2.0).
"""

from collections import Counter
from typing import Any, NamedTuple

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate

from schemas.changes import Change, DeviceChange, Invalid, TypeName
from schemas.checking import check, sentences
from schemas.fields import StrictInteger, Text, UnixMilliseconds
from schemas.identities import Catalogue
from schemas.records import Skip
from schemas.sources.mparticle_users import IdentitySchema, users_of

MEMBERSHIP_REQUEST = "audience_membership_change_request"
SUBSCRIPTION_REQUEST = "audience_subscription_request"

MEMBERSHIP_ACTIONS: dict[str, TypeName] = {"add": "member_added", "delete": "member_removed"}
MAX_PROFILE_CHANGES = 10_000
"""That a profile may make: a device in an audience makes one, with all of the user's identities."""
ATTRIBUTE_UPDATE = "attribute_update"
SUBSCRIPTION_REMOVED = "remove"
SUBSCRIPTION_ACTIONS = ("add", "update", SUBSCRIPTION_REMOVED)

ANYTHING = fields.Raw(allow_none=True)
"""An entry that is checked later, by itself, so that a wrong one does not make its whole list wrong."""


class Translated(NamedTuple):
    """A request as changes."""

    changes: list[Change]
    invalid: list[Invalid]
    """Profiles that are wrong, each with only those of its audiences that are; or the whole request."""
    skipped: Counter[Skip]


class _Excluding(Schema):
    class Meta:
        unknown = EXCLUDE


class AudienceSchema(_Excluding):
    """An action on a user in one audience."""

    audience_id = StrictInteger(required=True)
    audience_name = Text(required=True, validate=validate.Length(min=1, error="empty"))
    action = Text(
        required=True, validate=validate.OneOf([*MEMBERSHIP_ACTIONS, ATTRIBUTE_UPDATE], error="unknown")
    )


class ProfileSchema(_Excluding):
    """A user. Its audiences are checked one by one, after it."""

    user_identities = fields.List(fields.Nested(IdentitySchema), allow_none=True)
    device_identities = fields.List(fields.Nested(IdentitySchema), allow_none=True)
    partner_identities = fields.List(ANYTHING, allow_none=True)
    mpid = Text(allow_none=True)
    audiences = fields.List(ANYTHING, allow_none=True)


class MembershipRequestSchema(_Excluding):
    """The envelope of profiles. They are checked one by one, after it."""

    type = Text(allow_none=True, validate=validate.Equal(MEMBERSHIP_REQUEST, error="unknown"))
    timestamp_ms = UnixMilliseconds(required=True)
    user_profiles = fields.List(ANYTHING, required=True)


class SubscriptionRequestSchema(_Excluding):
    """An audience begins, changes or ends to be sent to this output."""

    timestamp_ms = UnixMilliseconds(required=True)
    audience_id = StrictInteger(required=True)
    audience_name = Text(required=True, validate=validate.Length(min=1, error="empty"))
    action = Text(required=True, validate=validate.OneOf(SUBSCRIPTION_ACTIONS, error="unknown"))


SUBSCRIPTION, MEMBERSHIP = SubscriptionRequestSchema(), MembershipRequestSchema()
PROFILE, AUDIENCE = ProfileSchema(), AudienceSchema()


def translate(request: Any, catalogue: Catalogue) -> Translated:
    """The membership changes and the deletions that a request tells of, in its order."""
    if _is_verification(request):
        return _nothing()
    schema = SUBSCRIPTION if _is_of_type(request, SUBSCRIPTION_REQUEST) else MEMBERSHIP
    try:
        loaded = schema.load(request)
    except ValidationError as error:
        return _nothing()._replace(invalid=[Invalid(0, sentences(schema, error), request)])
    return _subscription(loaded) if schema is SUBSCRIPTION else _memberships(loaded, catalogue)


def _nothing() -> Translated:
    return Translated([], [], Counter())


def _is_of_type(request: Any, kind: str) -> bool:
    return isinstance(request, dict) and request.get("type") == kind


def _is_verification(request: Any) -> bool:
    """Whether mParticle only checks that it is answered, which it does periodically."""
    return _is_of_type(request, MEMBERSHIP_REQUEST) and request.get("user_profiles") is None


def _subscription(request: dict[str, Any]) -> Translated:
    """A removed subscription: the audience is deleted as far as its streams are concerned."""
    translated = _nothing()
    if request["action"] == SUBSCRIPTION_REMOVED:
        translated.changes.append(Change(*_event("audience_deleted", request, request["timestamp_ms"])))
    else:
        translated.skipped[Skip.SUBSCRIPTION] += 1
    return translated


def _memberships(request: dict[str, Any], catalogue: Catalogue) -> Translated:
    """The actions of a request's profiles; a wrong profile or audience does not stop the others."""
    profiles = request["user_profiles"]
    valid, problems = check(PROFILE, profiles)
    translated = _nothing()
    translated.invalid.extend(Invalid(i, problems[i], profiles[i]) for i in problems)
    for position, profile in valid:
        users, skipped = users_of(profile, catalogue)
        audiences = profile.get("audiences") or []
        if len(users) * len(audiences) > MAX_PROFILE_CHANGES:
            problem = (
                f"{len(users)} users in {len(audiences)} audiences: at most {MAX_PROFILE_CHANGES} changes"
            )
            translated.invalid.append(Invalid(position, [problem], profiles[position]))
            continue
        translated.skipped.update(skipped)
        translatable, wrong = check(AUDIENCE, audiences)
        for _, audience in translatable:
            _add(audience, request["timestamp_ms"], users, translated)
        if wrong:
            alone = {**profiles[position], "audiences": [audiences[i] for i in wrong]}
            what = sorted({f"audiences: {problem}" for found in wrong.values() for problem in found})
            translated.invalid.append(Invalid(position, what, alone))
    return translated


def _add(
    audience: dict[str, Any], timestamp_ms: int, users: list[dict[str, str]], translated: Translated
) -> None:
    """Add the changes that an audience's entry of a profile tells of, one for each user."""
    kind = MEMBERSHIP_ACTIONS.get(audience["action"])
    if kind is None:
        translated.skipped[Skip.ATTRIBUTE_UPDATE] += 1
    else:
        event = _event(kind, audience, timestamp_ms)
        first, *further = users
        translated.changes.append(Change(*event, first))
        translated.changes.extend(
            DeviceChange(*event, user, first_device_identities=first) for user in further
        )


def _event(
    kind: TypeName, audience: dict[str, Any], timestamp_ms: int
) -> tuple[TypeName, int, str, None, int]:
    """The first five fields of a change."""
    return kind, audience["audience_id"], audience["audience_name"], None, timestamp_ms // 1000

"""The users that an mParticle profile describes: of its identities, those that a record can hold.

A record holds one value of each identity, and a profile may list several of one type: permissions
may ask for it raw and hashed, and a user may have several devices. The best value of each identity
makes the first user. A further device ID is a further device of the same person, so it makes a
further user, and with it a further record. A further value of another identity has no place.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from marshmallow import EXCLUDE, Schema

from schemas.fields import Text
from schemas.identities import Catalogue
from schemas.records import Skip

MPID_TYPE = "mpid"
"""The SDK gives the mParticle ID a key of its own; the catalogue lists it under this type."""
RAW = "raw"
"""The SDK's encodings are this, `md5`, `sha1` and `sha256`."""


class IdentitySchema(Schema):
    """An identity of a user or a device. The SDK's serialiser leaves an empty value out."""

    class Meta:
        unknown = EXCLUDE

    type = Text(required=True)
    encoding = Text(allow_none=True)
    value = Text(allow_none=True)


class Users(NamedTuple):
    """The users of a profile, in the order of their records; holds identity values."""

    users: list[dict[str, str]]
    """Each from configured names to values; the first one is there even if it is empty."""
    skipped: Counter[Skip]
    """Identities that no user holds."""

    def __repr__(self) -> str:
        return f"<{len(self.users)} users of a profile>"


def users_of(profile: dict[str, Any], catalogue: Catalogue) -> Users:
    """The users of a loaded profile. A partner's own identities have no names in a record."""
    skipped: Counter[Skip] = Counter()
    if partner_identities := profile.get("partner_identities"):
        skipped[Skip.UNNAMED_IDENTITY] += len(partner_identities)
    by_name: dict[str, list[dict[str, Any]]] = {}
    for identity in _identities(profile):
        name = catalogue.by_mparticle_type.get(identity["type"])
        if name is None:
            skipped[Skip.UNNAMED_IDENTITY] += 1
        elif identity.get("value") is not None:
            by_name.setdefault(name, []).append(identity)
    users: list[dict[str, str]] = [{}]
    for name, identities in by_name.items():
        best, *others = _distinct_values(identities)
        users[0][name] = best
        for other in others:
            if other and name in catalogue.device_names:
                users.append({name: other})
            else:
                skipped[Skip.FURTHER_VALUE] += 1
    return Users([users[0], *({**users[0], **further} for further in users[1:])], skipped)


def _identities(profile: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """The named identities, in the order in which a record lists them."""
    yield from profile.get("user_identities") or ()
    yield from profile.get("device_identities") or ()
    if mpid := profile.get("mpid"):
        yield {"type": MPID_TYPE, "value": mpid}


def _distinct_values(identities: list[dict[str, Any]]) -> list[str]:
    """The values of one identity, the best first: non-empty before empty, then raw before hashed."""
    ranked = sorted(identities, key=lambda identity: (not identity["value"], _is_hashed(identity)))
    return list(dict.fromkeys(identity["value"] for identity in ranked))


def _is_hashed(identity: dict[str, Any]) -> bool:
    return (identity.get("encoding") or RAW) != RAW

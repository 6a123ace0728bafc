"""The identity catalogue: which identities a user can have, and what a stream calls them."""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

ANONYMOUS_NAME = "MPID"
"""The identity that every user has: one left with nothing else is anonymous."""


class Identity(NamedTuple):
    """A row of `identities.json`."""

    identity: str
    """What people call it: `Customer ID`."""
    name: str
    """What callers send and streams receive: `CustomerId`."""
    kind: Literal["user", "device"]
    basis: str
    """Where the name comes from: documented, by pattern, or seen elsewhere."""
    mparticle: str
    """Its type in mParticle's Firehose SDK."""


ROWS: tuple[Identity, ...] = tuple(
    Identity(**row) for row in json.loads(Path(__file__).with_name("identities.json").read_text("utf-8"))
)
"""The catalogue as data, in the order of the file."""


class Catalogue:
    """The identities by the names in force.

    An operator whose consumers spell a name otherwise gives `spellings`, from the
    standard name to theirs. The spelled name then counts everywhere: in changes, in
    exclusions and in records. Settings are stored under the standard names, so that
    a new spelling does not touch them.
    """

    def __init__(self, spellings: Mapping[str, str] | None = None) -> None:
        spellings = spellings or {}
        standard = {row.name for row in ROWS}
        if unknown := sorted(spellings.keys() - standard):
            raise ValueError(
                f"not an identity name: {', '.join(unknown)}; the names are {', '.join(sorted(standard))}"
            )
        self._configured = {name: spellings.get(name, name) for name in (row.name for row in ROWS)}
        if len(set(self._configured.values())) < len(self._configured):
            raise ValueError("two identities may not have the same name")
        self._standard = {spelled: name for name, spelled in self._configured.items()}

    @cached_property
    def names(self) -> frozenset[str]:
        """The names in force."""
        return frozenset(self._standard)

    @cached_property
    def anonymous(self) -> str:
        """The name in force of the mParticle ID."""
        return self.configured_name(ANONYMOUS_NAME)

    def configured_name(self, standard_name: str) -> str:
        """The name in force of an identity, from its standard name."""
        return self._configured[standard_name]

    def standard(self, configured_name: str) -> str:
        """The standard name of an identity, from its name in force."""
        return self._standard[configured_name]

    @cached_property
    def by_mparticle_type(self) -> dict[str, str]:
        """Names in force by the SDK's identity types."""
        return {row.mparticle: self.configured_name(row.name) for row in ROWS}

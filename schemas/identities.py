"""The identity catalogue: which identities a user can have, and what a stream calls them."""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

ANONYMOUS_NAME = "MPID"
"""Every user of mParticle has this identity. A user left with nothing else is anonymous."""

CUSTOMER_NAME = "CustomerId"


class Identity(NamedTuple):
    """A row of `identities.json`."""

    identity: str
    """Its name in documents: `Customer ID`."""
    name: str
    """Its name in changes and in records: `CustomerId`."""
    kind: Literal["user", "device"]
    basis: str
    """The source of the name: documented, by pattern, or seen elsewhere."""
    mparticle: str | None = None
    """Its type in mParticle's Firehose SDK; None where that has none."""


ROWS: tuple[Identity, ...] = tuple(
    Identity(**row) for row in json.loads(Path(__file__).with_name("identities.json").read_text("utf-8"))
)
"""The catalogue as data, in the order of the file."""


class Catalogue:
    """The identities under their configured names.

    An operator whose consumers spell a name otherwise gives `aliases`, from the standard name to
    theirs. The alias then counts everywhere: in changes, in exclusions and in records. Settings are
    stored under the standard names, so that a new alias does not touch them.
    """

    def __init__(self, aliases: Mapping[str, str] | None = None) -> None:
        """Raise `ValueError` for an alias of no identity, and for a name that two identities have."""
        aliases = aliases or {}
        standard = {row.name for row in ROWS}
        if unknown := sorted(aliases.keys() - standard):
            raise ValueError(
                f"not an identity name: {', '.join(unknown)}; the names are {', '.join(sorted(standard))}"
            )
        self._configured = {name: aliases.get(name, name) for name in (row.name for row in ROWS)}
        if len(set(self._configured.values())) < len(self._configured):
            raise ValueError("two identities may not have the same name")
        self._standard = {configured: name for name, configured in self._configured.items()}

    @cached_property
    def names(self) -> frozenset[str]:
        """The configured names."""
        return frozenset(self._standard)

    @cached_property
    def device_names(self) -> frozenset[str]:
        """The configured names of the identities that a device has, of which a user may have several."""
        return frozenset(self.configured_name(row.name) for row in ROWS if row.kind == "device")

    @cached_property
    def names_by_precedence(self) -> tuple[str, ...]:
        """The configured names, the most telling first: MPID, Customer ID, then the order of the file."""
        first = (ANONYMOUS_NAME, CUSTOMER_NAME)
        others = (row.name for row in ROWS if row.name not in first)
        return tuple(map(self.configured_name, (*first, *others)))

    @cached_property
    def anonymous(self) -> str:
        """The configured name of the mParticle ID."""
        return self.configured_name(ANONYMOUS_NAME)

    def configured_name(self, standard_name: str) -> str:
        """The configured name of an identity, from its standard name."""
        return self._configured[standard_name]

    def standard(self, configured_name: str) -> str:
        """The standard name of an identity, from its configured name."""
        return self._standard[configured_name]

    @cached_property
    def by_mparticle_type(self) -> dict[str, str]:
        """The configured names by the SDK's identity types."""
        return {row.mparticle: self.configured_name(row.name) for row in ROWS if row.mparticle}

"""Most changes, column by column: each adds a user to an audience or removes it.

C code goes through a column of many changes at once, which costs a third of what it costs to look at one
change after the other. And nothing of a change is kept but what its record needs: the objects of a message
with many changes would leave the processor's caches before they are rendered.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import cached_property
from itertools import chain, repeat
from operator import attrgetter
from typing import Any, Self

import orjson

from schemas.changes import EVENT, MEMBER_ADDED, MEMBERSHIPS, Change, Event
from schemas.records import Renderer, Stamp, Template
from schemas.users import User, identified

TYPE, TIMESTAMP, USER_IDENTITIES = map(attrgetter, ("type", "timestamp", "user_identities"))
NEXT_USER = '},"",{'
"""The text between two users of a list that has an empty text after each. No user holds it: JSON escapes the
quotation marks of texts."""
Place = tuple[Stamp, int]
"""A message's stamp, and the place of a record in the message."""


class Memberships:
    """Changes that each add or remove another user."""

    def __init__(self, changes: Sequence[Change], users: Set[User]) -> None:
        """`users` are those that the changes tell of, as many as there are changes."""
        self.users = users
        self._events: list[Event] = list(map(EVENT, changes))
        self.distinct_events: Set[Event] = set(self._events)
        self._timestamps = list(map(TIMESTAMP, changes))
        # As one text: orjson takes 1 KiB for each, which is found slowly where memory is fragmented.
        identities: list[Any] = [""] * (2 * len(changes))
        identities[::2] = map(USER_IDENTITIES, changes)
        self._identities = orjson.dumps(identities).decode().split(NEXT_USER)
        """JSON without its braces."""
        self._identities[0] = self._identities[0].removeprefix("[{")
        self._identities[-1] = self._identities[-1].removesuffix('},""]')

    @classmethod
    def of(cls, changes: Sequence[Change], names: Sequence[str]) -> Self | None:
        """The columns of changes; None where one is of another type, or tells of the same user as another.

        `names` are the configured names of all identities, the most telling first.
        """
        if not (
            set(map(type, changes)) == {Change}
            and MEMBERSHIPS.issuperset(map(TYPE, changes))
            and all(map(USER_IDENTITIES, changes))
        ):
            return None
        users = set(identified(changes, names))
        return cls(changes, users) if len(users) == len(changes) else None

    def __len__(self) -> int:
        return len(self._events)

    @cached_property
    def audience_ids(self) -> Set[int]:
        """The audiences of the changes."""
        return {audience_id for _, audience_id, _, _ in self.distinct_events}

    @cached_property
    def positions(self) -> Mapping[int, Sequence[int]]:
        """The positions of each audience's changes."""
        positions: defaultdict[int, list[int]] = defaultdict(list)
        for position, (_, audience_id, _, _) in enumerate(self._events):
            positions[audience_id].append(position)
        return positions

    def changes(self) -> list[Change]:
        """The changes, as they were."""
        return [
            Change(kind, audience_id, external, internal, timestamp, orjson.loads(f"{{{user}}}"))
            for (kind, audience_id, external, internal), timestamp, user in zip(
                self._events, self._timestamps, self._identities, strict=True
            )
        ]

    def render(
        self, renderers: Mapping[int, Renderer], places: Sequence[Place]
    ) -> tuple[list[str], list[int]]:
        """The records of those changes whose audiences have a renderer, in their order, and their audiences.

        Each renderer forwards all users. All include metadata, or none does. `places` are those of all
        changes, if their records include metadata.
        """
        columns: tuple[Sequence[Any], ...] = (self._events, self._timestamps, self._identities, places)
        if not renderers.keys() >= self.audience_ids:
            found = [self.positions[one] for one in renderers.keys() & self.audience_ids]
            positions = found[0] if len(found) == 1 else sorted(chain.from_iterable(found))
            columns = tuple([column[i] for i in positions] if column else column for column in columns)
        events, timestamps, identities, places = columns
        templates = {
            event: _template(renderers[event[1]], event)
            for event in self.distinct_events
            if event[1] in renderers
        }
        audience_ids = [audience_id for _, audience_id, _, _ in events]
        ends: Iterable[str] = repeat("")
        if places:
            ends = [renderers[one].end(*place) for one, place in zip(audience_ids, places, strict=True)]
        lines = [
            f"{before}{timestamp}{between}{{{user}}}{after}{end}"
            for (before, between, after), timestamp, user, end in zip(
                map(templates.__getitem__, events), timestamps, identities, ends, strict=False
            )
        ]
        return lines, audience_ids


def _template(renderer: Renderer, event: Event) -> Template:
    kind, audience_id, external_name, internal_name = event
    return renderer.template(audience_id, external_name or internal_name or "", kind == MEMBER_ADDED)

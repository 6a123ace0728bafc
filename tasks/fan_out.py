"""From changes to the batches of each stream. Pure: reads a snapshot of the registry, sends nothing."""

from collections import Counter
from collections.abc import Sequence, Set
from itertools import chain, groupby
from typing import NamedTuple

from schemas.changes import Change
from schemas.memberships import Memberships, Place
from schemas.records import Skip, Stamp
from schemas.users import Users
from tasks.routing import Routing, Streams, ended_audiences
from worker.firehose.batching import Batches
from worker.state.registry import Snapshot
from worker.state.run_counts import Skipped


class Part(NamedTuple):
    """The changes of one message, and the stamp of their records."""

    content: Sequence[Change] | Memberships
    stamp: Stamp

    @property
    def changes(self) -> Sequence[Change]:
        """The changes, one by one."""
        return self.content.changes() if isinstance(self.content, Memberships) else self.content

    @property
    def audience_ids(self) -> Set[int]:
        """The audiences of the changes."""
        return audiences_of(self.content)


class Section(NamedTuple):
    """The changes of successive parts as columns."""

    memberships: Memberships
    parts: Sequence[Part]

    def places(self) -> list[Place]:
        """The places of the changes' records."""
        return [(part.stamp, 2 * position) for part in self.parts for position in range(len(part.content))]


def audiences_of(content: Sequence[Change] | Memberships) -> Set[int]:
    """The audiences of a message's changes."""
    if isinstance(content, Memberships):
        return content.audience_ids
    return {change.audience_id for change in content}


def fan_out(
    parts: Sequence[Part], snapshot: Snapshot, names: Sequence[str]
) -> tuple[Streams, Counter[Skipped]]:
    """The batches of each stream, and why records are missing from them.

    The changes of several messages are one sequence, in the order of `parts`: a user's records in all of
    them are one atomic group. `names` are the configured names of all identities, the most telling first.
    Changes whose audience has a corrupt connection are left out.
    """
    sections = _sections(parts, names)
    if sections is not None:
        routing = Routing(set().union(*(part.audience_ids for part in parts)), snapshot)
        streams = _plain_streams(sections, routing) if routing.is_plain else None
        if streams is not None:
            return streams, _unconnected(sections, routing)
    return _fan_out_singly(parts, snapshot, names)


def _fan_out_singly(
    parts: Sequence[Part], snapshot: Snapshot, names: Sequence[str]
) -> tuple[Streams, Counter[Skipped]]:
    """`fan_out` of any changes, one after the other."""
    parts = [part._replace(content=part.changes) for part in parts]
    changes = [change for part in parts for change in part.changes]
    users = Users(changes, names)
    routing = Routing({change.audience_id for change in changes}, snapshot, ended_audiences(changes))
    skipped: Counter[Skipped] = Counter()
    for part in parts:
        for position, change in enumerate(part.changes):
            if change.audience_id in routing.unconnected:
                skipped[Skipped(None, change.audience_id, Skip.NO_CONNECTION)] += 1
                continue
            user = users.user_of(change)
            for renderer, shared in routing.receivers.get(change.audience_id, ()):
                lines, skips = renderer.render(change, part.stamp, position)
                if lines:
                    for groups in shared:
                        groups.add(change, user, lines)
                for skip in skips:
                    for stream in chain.from_iterable(groups.streams for groups in shared):
                        skipped[Skipped(stream, change.audience_id, skip)] += 1
    return routing.streams(), skipped


def _sections(parts: Sequence[Part], names: Sequence[str]) -> list[Section] | None:
    """The parts as columns; None where they are not all memberships, each of another user."""
    sections: list[Section] = []
    for is_condensed, successive in groupby(parts, lambda part: isinstance(part.content, Memberships)):
        for together in ([part] for part in successive) if is_condensed else [list(successive)]:
            memberships = _together(together, names)
            if memberships is None:
                return None
            sections.append(Section(memberships, together))
    if len(sections) > 1:
        users = set().union(*(section.memberships.users for section in sections))
        if len(users) < sum(len(section.memberships) for section in sections):
            return None
    return sections


def _together(parts: Sequence[Part], names: Sequence[str]) -> Memberships | None:
    """The columns of a single part, or of parts whose changes come one by one."""
    if isinstance(parts[0].content, Memberships):
        return parts[0].content
    changes = parts[0].changes if len(parts) == 1 else [change for part in parts for change in part.changes]
    return Memberships.of(changes, names)


def _plain_streams(sections: Sequence[Section], routing: Routing) -> Streams | None:
    """The batches of each stream; None where a record is too large for Firehose."""
    streams: Streams = {}
    places = [section.places() if routing.includes_metadata else [] for section in sections]
    for groups in routing.groups:
        lines: list[str] = []
        audience_ids: list[int] = []
        for (memberships, _), of_records in zip(sections, places, strict=True):
            if not memberships.audience_ids.isdisjoint(groups.renderers):
                of_these = of_records if groups.includes_metadata else []
                found, audiences = memberships.render(groups.renderers, of_these)
                lines += found
                audience_ids += audiences
        batches = Batches(groups.limit)
        if not batches.add_lines(lines, audience_ids):
            return None
        streams |= groups.sharing(batches)
    return streams


def _unconnected(sections: Sequence[Section], routing: Routing) -> Counter[Skipped]:
    """The changes of audiences without a connection, as they are counted."""
    skipped: Counter[Skipped] = Counter()
    for memberships, _ in sections:
        for audience_id in memberships.audience_ids & routing.unconnected:
            count = len(memberships.positions[audience_id])
            skipped[Skipped(None, audience_id, Skip.NO_CONNECTION)] += count
    return skipped

"""From changes to the batches of each stream. Pure: reads a snapshot of the registry, sends nothing."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from schemas.changes import Change, ChangeType
from schemas.records import Projection, Rendered, Skip, Stamp, render
from schemas.users import User, Users
from worker.firehose.batching import Batches, BatchLimit, Lines, Source, batch_limit, is_oversize
from worker.queues import Stream
from worker.state.registry import Snapshot

Groups = dict[User, list[bytes]]
"""The lines of each user, in the order in which users first come up."""


class Part(NamedTuple):
    """The changes of one message, and the stamp of their records."""

    changes: Sequence[Change]
    stamp: Stamp


class Skipped(NamedTuple):
    """The counter of a record that is not sent."""

    stream: Stream | None
    audience_id: int | None
    skip: Skip


class StreamGroups:
    """The atomic groups of one or more messages for a stream: the records of each user of each audience.

    An audience that a change also ends has stages: what comes before its deletion, the deletion,
    and what comes after it. Neither overtakes the other.
    """

    def __init__(self, ended_audiences: frozenset[int]) -> None:
        self._ended_audiences = ended_audiences
        self._groups: Groups = {}
        self._stages: defaultdict[int, list[Groups]] = defaultdict(lambda: [{}])
        self._sources: dict[int, Source] = {}
        self._oversize: list[tuple[Lines, Source]] = []

    def add(self, change: Change, user: User, lines: Lines, source: Source) -> None:
        """Append a change's lines to its user's group.

        A removal that is too large for Firehose is set apart alone, and its addition is sent: what a
        stream hears last is then still true. An addition that is too large takes its removal along.
        """
        fitting: Lines = lines
        if any(map(is_oversize, lines)):
            fitting = () if is_oversize(lines[-1]) else lines[-1:]
            self._oversize.append((lines[: len(lines) - len(fitting)], source))
        if fitting:
            self._sources[change.audience_id] = source
            self._groups_for(change).setdefault(user, []).extend(fitting)

    def batches(self, limit: BatchLimit) -> Batches:
        """The groups in batches."""
        batches = Batches(limit)
        for user, lines in self._groups.items():
            batches.add(lines, self._sources[user[0]])
        for audience_id, stages in self._stages.items():
            batches.add_stages((stage.values() for stage in stages), self._sources[audience_id])
        for apart, source in self._oversize:
            batches.set_apart(apart, source)
        return batches

    def _groups_for(self, change: Change) -> Groups:
        if change.audience_id not in self._ended_audiences:
            return self._groups
        stages = self._stages[change.audience_id]
        if change.type == ChangeType.AUDIENCE_DELETED:
            stages += [{}, {}]
            return stages[-2]
        return stages[-1]


def fan_out(
    parts: Sequence[Part], snapshot: Snapshot, names: Sequence[str]
) -> tuple[dict[Stream, Batches], Counter[Skipped]]:
    """The batches of each stream, and why records are missing from them.

    The changes of several messages are one sequence, in the order of `parts`: a user's records in all of
    them are one atomic group. `names` are the configured names of all identities, the most telling first.
    Changes whose audience has a corrupt connection are left out.
    """
    changes = parts[0].changes if len(parts) == 1 else [change for part in parts for change in part.changes]
    users, ended = Users(changes, names), _ended_audiences(changes)
    streams: dict[Stream, StreamGroups] = defaultdict(lambda: StreamGroups(ended))
    skipped: Counter[Skipped] = Counter()
    for part in parts:
        for position, change in enumerate(part.changes):
            if change.audience_id in snapshot.corrupt:
                continue
            routes = snapshot.routes.get(change.audience_id)
            if not routes:
                skipped[Skipped(None, change.audience_id, Skip.NO_CONNECTION)] += 1
                continue
            user = users.user_of(change)
            # Connections that forward a change alike share its bytes.
            seen: dict[Projection, Rendered] = {}
            for route in routes:
                rendered = seen.get(route.projection)
                if rendered is None:
                    rendered = seen[route.projection] = render(change, route.projection, part.stamp, position)
                if rendered.lines:
                    source = Source(route.connection_id, change.audience_id, route.aggregate_records)
                    streams[route.stream].add(change, user, rendered.lines, source)
                for skip in rendered.skipped:
                    skipped[Skipped(route.stream, change.audience_id, skip)] += 1
    batches = {
        stream: groups.batches(batch_limit(snapshot.quota(stream))) for stream, groups in streams.items()
    }
    return batches, skipped


def _ended_audiences(changes: Sequence[Change]) -> frozenset[int]:
    """Audiences that the changes delete, if another change is of the same audience."""
    ended = {change.audience_id for change in changes if change.type == ChangeType.AUDIENCE_DELETED}
    if not ended:
        return frozenset()
    changes_of = Counter(change.audience_id for change in changes)
    return frozenset(audience_id for audience_id in ended if changes_of[audience_id] > 1)

"""From changes to the batches of each stream. Pure: reads a snapshot of the registry, sends nothing."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from schemas.changes import AUDIENCE_DELETED, Change
from schemas.records import Projection, Renderer, Skip, Stamp
from schemas.users import User, Users
from worker.firehose.batching import Batches, BatchLimit, Lines, Source, batch_limit, is_oversize
from worker.queues import Stream
from worker.state.registry import Route, Snapshot
from worker.state.run_counts import Skipped

Groups = dict[User, Lines]
"""The lines of each user, in the order in which users first come up."""


class Part(NamedTuple):
    """The changes of one message, and the stamp of their records."""

    changes: Sequence[Change]
    stamp: Stamp


class StreamGroups:
    """The atomic groups of one or more messages for a stream: the records of each user of each audience.

    An audience that a change also ends has stages: what comes before its deletion, the deletion,
    and what comes after it. Neither overtakes the other.
    """

    def __init__(self, stream: Stream, ended_audiences: frozenset[int]) -> None:
        self.stream = stream
        self._ended_audiences = ended_audiences
        self._groups: Groups = {}
        self._stages: defaultdict[int, list[Groups]] = defaultdict(lambda: [{}])
        self._sources: dict[int, Source] = {}
        self._oversize: list[tuple[Lines, Source]] = []

    def add(self, change: Change, user: User, lines: tuple[bytes, ...], source: Source) -> None:
        """Append a change's lines, one or a removal and the addition after it, to its user's group.

        A removal that is too large for Firehose is set apart alone, and its addition is sent: what a
        stream hears last is then still true. An addition that is too large takes its removal along.
        """
        fitting = lines
        if is_oversize(lines[0]) or is_oversize(lines[-1]):
            fitting = () if is_oversize(lines[-1]) else lines[-1:]
            self._oversize.append((lines[: len(lines) - len(fitting)], source))
            if not fitting:
                return
        self._sources[change.audience_id] = source
        groups = self._groups if change.audience_id not in self._ended_audiences else self._groups_for(change)
        # Most users come up once, and their groups stay the tuples that they come as.
        group = groups.get(user)
        if group is None:
            groups[user] = fitting
        elif isinstance(group, list):
            group.extend(fitting)
        else:
            groups[user] = [*group, *fitting]

    @property
    def is_empty(self) -> bool:
        """Whether no change had lines for the stream."""
        return not (self._groups or self._stages or self._oversize)

    def batches(self, limit: BatchLimit) -> Batches:
        """The groups in batches."""
        batches = Batches(limit)
        sources = self._sources
        for (audience_id, _, _), lines in self._groups.items():
            batches.add(lines, sources[audience_id])
        for audience_id, stages in self._stages.items():
            batches.add_stages((stage.values() for stage in stages), self._sources[audience_id])
        for apart, source in self._oversize:
            batches.set_apart(apart, source)
        return batches

    def _groups_for(self, change: Change) -> Groups:
        stages = self._stages[change.audience_id]
        if change.type == AUDIENCE_DELETED:
            stages += [{}, {}]
            return stages[-2]
        return stages[-1]


class Receivers(NamedTuple):
    """Connections of an audience that forward a change alike, and so share its bytes."""

    renderer: Renderer
    connections: list[tuple[StreamGroups, Source]]


class Routing:
    """From audiences to the groups of the streams that they lead to."""

    def __init__(self, snapshot: Snapshot, ended_audiences: frozenset[int]) -> None:
        self._snapshot = snapshot
        self._ended_audiences = ended_audiences
        self._receivers: dict[int, list[Receivers]] = {}
        self._streams: dict[Stream, StreamGroups] = {}

    def receivers_of(self, audience_id: int) -> list[Receivers]:
        """The connections of an audience; none where one of them is corrupt."""
        receivers = self._receivers.get(audience_id)
        if receivers is None:
            is_corrupt = audience_id in self._snapshot.corrupt
            routes = () if is_corrupt else self._snapshot.routes.get(audience_id, ())
            receivers = self._receivers[audience_id] = self._make_receivers(audience_id, routes)
        return receivers

    def batches(self) -> dict[Stream, Batches]:
        """The batches of each stream that has any."""
        return {
            stream: groups.batches(batch_limit(self._snapshot.quota(stream)))
            for stream, groups in self._streams.items()
            if not groups.is_empty
        }

    def _make_receivers(self, audience_id: int, routes: Iterable[Route]) -> list[Receivers]:
        alike: defaultdict[Projection, list[tuple[StreamGroups, Source]]] = defaultdict(list)
        for route in routes:
            groups = self._streams.get(route.stream)
            if groups is None:
                groups = self._streams[route.stream] = StreamGroups(route.stream, self._ended_audiences)
            source = Source(route.connection_id, audience_id, route.aggregate_records)
            alike[route.projection].append((groups, source))
        return [Receivers(Renderer(projection), connections) for projection, connections in alike.items()]


def fan_out(
    parts: Sequence[Part], snapshot: Snapshot, names: Sequence[str]
) -> tuple[dict[Stream, Batches], Counter[Skipped]]:
    """The batches of each stream, and why records are missing from them.

    The changes of several messages are one sequence, in the order of `parts`: a user's records in all of
    them are one atomic group. `names` are the configured names of all identities, the most telling first.
    Changes whose audience has a corrupt connection are left out.
    """
    changes = parts[0].changes if len(parts) == 1 else [change for part in parts for change in part.changes]
    users, routing = Users(changes, names), Routing(snapshot, _ended_audiences(changes))
    skipped: Counter[Skipped] = Counter()
    for part in parts:
        for position, change in enumerate(part.changes):
            receivers = routing.receivers_of(change.audience_id)
            if not receivers:
                if change.audience_id not in snapshot.corrupt:
                    skipped[Skipped(None, change.audience_id, Skip.NO_CONNECTION)] += 1
                continue
            user = users.user_of(change)
            for renderer, connections in receivers:
                lines, skips = renderer.render(change, part.stamp, position)
                if lines:
                    for groups, source in connections:
                        groups.add(change, user, lines, source)
                for skip in skips:
                    for groups, _ in connections:
                        skipped[Skipped(groups.stream, change.audience_id, skip)] += 1
    return routing.batches(), skipped


def _ended_audiences(changes: Sequence[Change]) -> frozenset[int]:
    """Audiences that the changes delete, if another change is of the same audience."""
    ended = {change.audience_id for change in changes if change.type == AUDIENCE_DELETED}
    if not ended:
        return frozenset()
    changes_of = Counter(change.audience_id for change in changes)
    return frozenset(audience_id for audience_id in ended if changes_of[audience_id] > 1)

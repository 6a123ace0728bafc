"""From changes to the batches of each stream. Pure: reads a snapshot of the registry, sends nothing."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from schemas.changes import AUDIENCE_DELETED, Change
from schemas.records import Projection, Renderer, Skip, Stamp
from schemas.users import User, Users
from worker.firehose.batching import (
    MAX_RECORD_BYTES,
    Batches,
    BatchLimit,
    Lines,
    Source,
    batch_limit,
    is_oversize,
)
from worker.queues import Stream
from worker.state.registry import Route, Snapshot
from worker.state.run_counts import Skipped

Groups = dict[User, Lines]
"""The lines of each user, in the order in which users first come up."""


class Part(NamedTuple):
    """The changes of one message, and the stamp of their records."""

    changes: Sequence[Change]
    stamp: Stamp


class StreamBatches(NamedTuple):
    """The batches of a stream."""

    batches: Batches
    """One object for all streams that receive the same."""
    connection_ids: Mapping[int, str]
    """The connections that lead to the stream, by their audiences."""


Streams = dict[Stream, StreamBatches]


class SharedGroups:
    """The atomic groups of one or more messages for streams that receive the same: each user's records.

    An audience that a change also ends has stages: what comes before its deletion, the deletion,
    and what comes after it. Neither overtakes the other.
    """

    def __init__(self, limit: BatchLimit, sources: Iterable[Source], ended_audiences: frozenset[int]) -> None:
        """`sources` are all audiences that lead to the streams."""
        self.streams: dict[Stream, Mapping[int, str]] = {}
        """The streams, each with the connections that lead to it, by their audiences."""
        self._limit = limit
        self._sources = {source.audience_id: source for source in sources}
        self._ended_audiences = ended_audiences
        self._groups: Groups = {}
        self._stages: defaultdict[int, list[Groups]] = defaultdict(lambda: [{}])
        self._oversize: list[tuple[Lines, Source]] = []

    def add(self, change: Change, user: User, lines: tuple[bytes, ...]) -> None:
        """Append a change's lines, one or a removal and the addition after it, to its user's group."""
        if len(lines[0]) > MAX_RECORD_BYTES or len(lines[-1]) > MAX_RECORD_BYTES:
            lines = self._set_apart(change, lines)
            if not lines:
                return
        groups = self._groups if change.audience_id not in self._ended_audiences else self._groups_for(change)
        # Most users come up once, and their groups stay the tuples that they come as.
        group = groups.setdefault(user, lines)
        if group is lines:
            return
        if isinstance(group, list):
            group.extend(lines)
        else:
            groups[user] = [*group, *lines]

    @property
    def is_empty(self) -> bool:
        """Whether no change had lines for the streams."""
        return not (self._groups or self._stages or self._oversize)

    def batches(self) -> Batches:
        """The groups in batches."""
        batches = Batches(self._limit)
        sources, groups = self._sources, self._groups
        is_plain = not any(source.aggregate for source in sources.values())
        if is_plain and set(map(len, groups.values())) == {1}:
            audience_ids = [audience_id for audience_id, _, _ in groups]
            batches.add_lines([line for (line,) in groups.values()], audience_ids)
        else:
            for (audience_id, _, _), lines in groups.items():
                batches.add(lines, sources[audience_id])
        for audience_id, stages in self._stages.items():
            batches.add_stages((stage.values() for stage in stages), sources[audience_id])
        for apart, source in self._oversize:
            batches.set_apart(apart, source)
        return batches

    def _set_apart(self, change: Change, lines: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Set lines apart that are too large for Firehose. Returns those that are sent.

        A removal that is too large is set apart alone, and its addition is sent: what a stream hears last is
        then still true. An addition that is too large takes its removal along.
        """
        fitting = () if is_oversize(lines[-1]) else lines[-1:]
        self._oversize.append((lines[: len(lines) - len(fitting)], self._sources[change.audience_id]))
        return fitting

    def _groups_for(self, change: Change) -> Groups:
        stages = self._stages[change.audience_id]
        if change.type == AUDIENCE_DELETED:
            stages += [{}, {}]
            return stages[-2]
        return stages[-1]


class Receivers(NamedTuple):
    """Connections of an audience that forward a change alike, and so share its bytes."""

    renderer: Renderer
    groups: list[SharedGroups]
    """Those of their streams."""


class Received(NamedTuple):
    """How a stream receives the changes of an audience."""

    source: Source
    projection: Projection


class Routing:
    """From audiences to the groups of the streams that they lead to."""

    def __init__(self, changes: Sequence[Change], snapshot: Snapshot) -> None:
        """The audiences are those of the changes, but for those with a corrupt connection."""
        audience_ids = {change.audience_id for change in changes} - snapshot.corrupt
        by_stream: defaultdict[Stream, list[tuple[int, Route]]] = defaultdict(list)
        for audience_id in audience_ids:
            for route in snapshot.routes.get(audience_id, ()):
                by_stream[route.stream].append((audience_id, route))
        self._ended_audiences = _ended_audiences(changes)
        self._groups: dict[tuple[BatchLimit, tuple[Received, ...]], SharedGroups] = {}
        self._alike: defaultdict[int, defaultdict[Projection, list[SharedGroups]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for stream, routes in by_stream.items():
            received = tuple(
                Received(Source(audience_id, route.aggregate_records), route.projection)
                for audience_id, route in routes
            )
            groups = self._groups_of(batch_limit(snapshot.quota(stream)), received)
            groups.streams[stream] = {audience_id: route.connection_id for audience_id, route in routes}
        self.receivers = {
            audience_id: [Receivers(Renderer(projection), groups) for projection, groups in found.items()]
            for audience_id, found in self._alike.items()
        }
        """By audience, for each that has any."""

    def _groups_of(self, limit: BatchLimit, received: tuple[Received, ...]) -> SharedGroups:
        """The groups of all streams with this limit that receive the same."""
        groups = self._groups.get((limit, received))
        if groups is None:
            groups = SharedGroups(limit, (source for source, _ in received), self._ended_audiences)
            self._groups[limit, received] = groups
            for source, projection in received:
                self._alike[source.audience_id][projection].append(groups)
        return groups

    def streams(self) -> Streams:
        """The batches of each stream that has any."""
        streams: Streams = {}
        for groups in self._groups.values():
            if not groups.is_empty:
                batches = groups.batches()
                for stream, connection_ids in groups.streams.items():
                    streams[stream] = StreamBatches(batches, connection_ids)
        return streams


def fan_out(
    parts: Sequence[Part], snapshot: Snapshot, names: Sequence[str]
) -> tuple[Streams, Counter[Skipped]]:
    """The batches of each stream, and why records are missing from them.

    The changes of several messages are one sequence, in the order of `parts`: a user's records in all of
    them are one atomic group. `names` are the configured names of all identities, the most telling first.
    Changes whose audience has a corrupt connection are left out.
    """
    changes = parts[0].changes if len(parts) == 1 else [change for part in parts for change in part.changes]
    users, routing = Users(changes, names), Routing(changes, snapshot)
    skipped: Counter[Skipped] = Counter()
    for part in parts:
        for position, change in enumerate(part.changes):
            receivers = routing.receivers.get(change.audience_id)
            if receivers is None:
                if change.audience_id not in snapshot.corrupt:
                    skipped[Skipped(None, change.audience_id, Skip.NO_CONNECTION)] += 1
                continue
            user = users.user_of(change)
            for renderer, shared in receivers:
                lines, skips = renderer.render(change, part.stamp, position)
                if lines:
                    for groups in shared:
                        groups.add(change, user, lines)
                for skip in skips:
                    for stream in chain.from_iterable(groups.streams for groups in shared):
                        skipped[Skipped(stream, change.audience_id, skip)] += 1
    return routing.streams(), skipped


def _ended_audiences(changes: Sequence[Change]) -> frozenset[int]:
    """Audiences that the changes delete, if another change is of the same audience."""
    ended = {change.audience_id for change in changes if change.type == AUDIENCE_DELETED}
    if not ended:
        return frozenset()
    changes_of = Counter(change.audience_id for change in changes)
    return frozenset(audience_id for audience_id in ended if changes_of[audience_id] > 1)

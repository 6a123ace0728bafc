"""From audiences to the streams that their connections lead to, and the batches of each."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence, Set
from functools import cached_property
from typing import NamedTuple

from schemas.changes import AUDIENCE_DELETED, Change
from schemas.records import Projection, Renderer
from schemas.users import User
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

Groups = dict[User, Lines]
"""The lines of each user, in the order in which users first come up."""


class StreamBatches(NamedTuple):
    """The batches of a stream."""

    batches: Batches
    """One object for all streams that receive the same."""
    connection_ids: Mapping[int, str]
    """The connections that lead to the stream, by their audiences."""


Streams = dict[Stream, StreamBatches]


class Received(NamedTuple):
    """How a stream receives the changes of an audience."""

    source: Source
    projection: Projection


class SharedGroups:
    """The atomic groups of one or more messages for streams that receive the same: each user's records.

    An audience that a change also ends has stages: what comes before its deletion, the deletion,
    and what comes after it. Neither overtakes the other.
    """

    def __init__(
        self, limit: BatchLimit, received: Collection[Received], ended_audiences: frozenset[int]
    ) -> None:
        """`received` are all audiences that lead to the streams."""
        self.streams: dict[Stream, Mapping[int, str]] = {}
        """The streams, each with the connections that lead to it, by their audiences."""
        self.limit = limit
        self.received = received
        self._sources = {source.audience_id: source for source, _ in received}
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

    @cached_property
    def renderers(self) -> Mapping[int, Renderer]:
        """The renderers of the changes, by their audiences."""
        return {source.audience_id: Renderer(projection) for source, projection in self.received}

    @property
    def includes_metadata(self) -> bool:
        """Whether a connection includes metadata."""
        return any(projection.include_metadata for _, projection in self.received)

    def sharing(self, batches: Batches) -> Streams:
        """Each stream with these batches."""
        return {
            stream: StreamBatches(batches, connection_ids) for stream, connection_ids in self.streams.items()
        }

    def batches(self) -> Batches:
        """The groups in batches."""
        batches = Batches(self.limit)
        for (audience_id, _, _), lines in self._groups.items():
            batches.add(lines, self._sources[audience_id])
        for audience_id, stages in self._stages.items():
            batches.add_stages((stage.values() for stage in stages), self._sources[audience_id])
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


class Routing:
    """From audiences to the groups of the streams that they lead to."""

    def __init__(
        self, audience_ids: Set[int], snapshot: Snapshot, ended_audiences: frozenset[int] = frozenset()
    ) -> None:
        """Audiences with a corrupt connection are left out. `ended_audiences` have a deletion and others."""
        audience_ids = audience_ids - snapshot.corrupt
        by_stream: defaultdict[Stream, list[tuple[int, Route]]] = defaultdict(list)
        for audience_id in audience_ids:
            for route in snapshot.routes.get(audience_id, ()):
                by_stream[route.stream].append((audience_id, route))
        self._ended_audiences = ended_audiences
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
        self.unconnected = audience_ids - self.receivers.keys()
        """The audiences that have no connection."""

    def _groups_of(self, limit: BatchLimit, received: tuple[Received, ...]) -> SharedGroups:
        """The groups of all streams with this limit that receive the same."""
        groups = self._groups.get((limit, received))
        if groups is None:
            groups = self._groups[limit, received] = SharedGroups(limit, received, self._ended_audiences)
            for source, projection in received:
                self._alike[source.audience_id][projection].append(groups)
        return groups

    @property
    def is_plain(self) -> bool:
        """Whether all connections forward each user as it is, in a Firehose record of its own.

        Those that share groups all include metadata, or none does.
        """
        return all(
            len({projection.include_metadata for _, projection in groups.received}) == 1
            and not any(source.aggregate for source, _ in groups.received)
            for groups in self.groups
        ) and all(renderer.forwards_all for found in self.receivers.values() for renderer, _ in found)

    @property
    def includes_metadata(self) -> bool:
        """Whether a connection includes metadata."""
        return any(groups.includes_metadata for groups in self.groups)

    @property
    def groups(self) -> Collection[SharedGroups]:
        """The groups of all streams."""
        return self._groups.values()

    def streams(self) -> Streams:
        """The batches of each stream that has any."""
        streams: Streams = {}
        for groups in self.groups:
            if not groups.is_empty:
                streams |= groups.sharing(groups.batches())
        return streams


def ended_audiences(changes: Sequence[Change]) -> frozenset[int]:
    """Audiences that the changes delete, if another change is of the same audience."""
    ended = {change.audience_id for change in changes if change.type == AUDIENCE_DELETED}
    if not ended:
        return frozenset()
    changes_of = Counter(change.audience_id for change in changes)
    return frozenset(audience_id for audience_id in ended if changes_of[audience_id] > 1)

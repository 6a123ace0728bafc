"""The Streams page as data: which streams, in which order, and each stream's figures of the last hour."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from schemas.quotas import Quota
from schemas.records import Skip
from worker.dashboard.labels import MINUTE
from worker.dashboard.paging import PageQuery, Part, part_of
from worker.queues import Stream
from worker.state.history import StreamHistory
from worker.status import Status, StreamState, StreamStatus

ROWS_PER_PAGE = 50
AUDIENCES_SHOWN = 10
"""Audiences without a connection that the page names."""
RATE_MINUTES = 5
"""Complete minutes that a rate is the mean of."""
SPARK_WIDTH, SPARK_HEIGHT = 120, 24
"""Units of a sparkline's drawing."""

STATE_ORDER = {
    state: place
    for place, state in enumerate(
        (StreamState.PAUSED, StreamState.FAILING, StreamState.NOT_CONNECTED, StreamState.FLOWING)
    )
}
"""Trouble first."""


@dataclass(frozen=True)
class StreamQuery(PageQuery):
    """The query of a request."""

    search: str = ""
    sort: str = "trouble"
    state: str = ""

    def matches(self, row: StreamStatus) -> bool:
        """Whether it asks for this stream."""
        return (not self.state or self.state == row.state) and (
            not self.search
            or self.search.lower() in " ".join((row.stream.queue, *row.connection_ids)).lower()
        )


@dataclass(frozen=True)
class StreamRow:
    """A stream as the page shows it."""

    status: StreamStatus
    history: StreamHistory
    quota: Quota
    oldest_seconds: float | None
    """The age of the oldest message in its queue."""

    @property
    def delivered_per_second(self) -> float:
        """Records, over the last complete minutes."""
        return _rate(self.history.delivered)

    @property
    def refused_per_second(self) -> float:
        """Records, over the last complete minutes."""
        return _rate(self.history.refused)

    @property
    def drain_seconds(self) -> float | None:
        """How long its backlog takes at the present rate.

        None where there is no backlog or no rate, and where the stream does not flow: its rate is past.
        """
        rate, backlog = self.delivered_per_second, self.status.in_broker
        flows = self.status.state is StreamState.FLOWING
        return backlog / rate if flows and backlog and rate else None

    @property
    def quota_used(self) -> float:
        """The share of its quota that it takes: of records or bytes, whichever is nearer to its limit."""
        return max(
            self.delivered_per_second / self.quota.records, _rate(self.history.bytes) / self.quota.bytes
        )

    @property
    def sparkline(self) -> tuple[str, str]:
        """The points of two lines over the last hour, delivered and refused, on one scale."""
        top = max(*self.history.delivered, *self.history.refused, 1)
        return _points(self.history.delivered, top), _points(self.history.refused, top)


@dataclass(frozen=True)
class StreamsPage:
    """A page of streams."""

    query: StreamQuery
    status: Status
    rows: Part[StreamRow]

    @property
    def unconnected(self) -> Sequence[tuple[int, int]]:
        """Audiences without a connection and their skipped changes, those with the most first."""
        return list(self._unconnected.items())[:AUDIENCES_SHOWN]

    @property
    def further_unconnected(self) -> int:
        """Audiences beyond those."""
        return max(len(self._unconnected) - AUDIENCES_SHOWN, 0)

    @property
    def _unconnected(self) -> Mapping[int, int]:
        skips = self.status.skipped_audiences.get(Skip.NO_CONNECTION)
        return skips.by_audience if skips else {}


Key = Callable[[StreamStatus], tuple[object, ...]]


def sort_keys(ages: Mapping[str, float]) -> dict[str, tuple[str, Key]]:
    """By the name of a sort order, its label and its key. `ages` are the queues', in seconds."""
    return {
        "trouble": ("Trouble first", lambda row: (STATE_ORDER[row.state], -row.dead, row.stream)),
        "name": ("Name", lambda row: (row.stream.name, row.stream)),
        "queued": ("Queue length", lambda row: (-(row.waiting or 0), row.stream)),
        "oldest": ("Oldest message", lambda row: (-ages.get(row.stream.queue, -1.0), row.stream)),
        "delivered": ("Delivered", lambda row: (-row.counts.delivered, row.stream)),
        "dead": ("Dead records", lambda row: (-row.dead, row.stream)),
    }


SORTS = {name: label for name, (label, _) in sort_keys({}).items()}


def read_query(arguments: Mapping[str, str]) -> StreamQuery:
    """The query of a URL. Raises `ValueError`, naming the parameter and its possible values."""
    query = StreamQuery.read(arguments)
    for name, value, choices in (("sort", query.sort, [*SORTS]), ("state", query.state, ["", *StreamState])):
        if value not in choices:
            raise ValueError(f"{name}: must be one of {', '.join(filter(None, choices))}")
    return query


def page_of(query: StreamQuery, status: Status, ages: Mapping[str, float]) -> Part[StreamStatus]:
    """The page of the matching streams that is asked for, in its order."""
    matching = sorted(filter(query.matches, status.rows), key=sort_keys(ages)[query.sort][1])
    return part_of(matching, query, ROWS_PER_PAGE)


def make_rows(
    statuses: Iterable[StreamStatus],
    histories: Mapping[Stream, StreamHistory],
    quota: Callable[[Stream], Quota],
    ages: Mapping[str, float],
) -> list[StreamRow]:
    """The rows of these streams."""
    return [
        StreamRow(row, histories[row.stream], quota(row.stream), ages.get(row.stream.queue))
        for row in statuses
    ]


def _rate(per_minute: Sequence[int]) -> float:
    complete = per_minute[-1 - RATE_MINUTES : -1]
    return sum(complete) / (MINUTE * len(complete)) if complete else 0.0


def _points(values: Sequence[int], top: int) -> str:
    step = SPARK_WIDTH / max(len(values) - 1, 1)
    return " ".join(
        f"{position * step:.1f},{SPARK_HEIGHT - 1 - value / top * (SPARK_HEIGHT - 2):.1f}"
        for position, value in enumerate(values)
    )

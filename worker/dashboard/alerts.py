"""The System Alerts page as data: connections by volume, each with its types, each with its alerts."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from operator import attrgetter
from typing import NamedTuple

from worker.dashboard.labels import section_of
from worker.dashboard.paging import PageQuery, Part, part_of
from worker.failures.alert_types import AlertType, Severity
from worker.failures.alerts import Alert, AlertState

GROUPS_PER_PAGE = 20
"""Connections. Each costs a millisecond to render."""
CONNECTIONS_SUGGESTED = 100
ALERTS_SHOWN = 20
"""Alerts of a connection and type; the command lists them all."""
BARS = 48
BAR_WIDTH, BAR_HEIGHT = 5, 24
"""Units of a plot's drawing."""
CUSTOM = "custom"


class Range(NamedTuple):
    """A choice of the time filter."""

    label: str
    span: timedelta | None
    """How far back from now; None for a range of its own dates."""


RANGES = {
    "1h": Range("Last hour", timedelta(hours=1)),
    "12h": Range("Last 12 hours", timedelta(hours=12)),
    "24h": Range("Last 24 hours", timedelta(hours=24)),
    "7d": Range("Last 7 days", timedelta(days=7)),
    "all": Range("All time", None),
    CUSTOM: Range("From … until …", None),
}


@dataclass(frozen=True)
class Query(PageQuery):
    """The choice of a URL. Empty values choose everything."""

    search: str = ""
    connection: str = ""
    type: str = ""
    state: str = ""
    range: str = "12h"
    since: str = ""
    """With the custom range: UTC, ISO 8601."""
    until: str = ""

    def span(self, now: datetime) -> tuple[datetime, datetime]:
        """The first moment that it chooses, and the first that is too late."""
        found = RANGES[self.range].span
        if found is not None:
            return now - found, datetime.max.replace(tzinfo=UTC)
        since, until = (self.since, self.until) if self.range == CUSTOM else ("", "")
        return _moment(since, datetime.min), _moment(until, datetime.max)

    @property
    def is_narrow(self) -> bool:
        """Whether it chooses by more than time."""
        return any((self.search, self.connection, self.type, self.state))

    def asks_for(self, alert: Alert, state: AlertState) -> bool:
        """Whether it chooses this alert, of whatever time."""
        return (
            (not self.connection or self.connection in alert.connection_ids)
            and (not self.type or self.type == alert.type)
            and (not self.state or self.state == state)
            and (not self.search or self.search.lower() in _text(alert))
        )


class Row(NamedTuple):
    """An alert and its state."""

    alert: Alert
    state: AlertState


@dataclass(frozen=True)
class TypeGroup:
    """The alerts of one type of one connection, newest first."""

    type: str
    rows: Sequence[Row]
    span: tuple[datetime, datetime]
    """The first and the last moment of the plot."""

    @cached_property
    def occurrences(self) -> int:
        """How often it occurred: an alert that recurs is one entry."""
        return sum(row.alert.occurrences for row in self.rows)

    @property
    def records(self) -> int:
        """Records that the alerts are about."""
        return sum(row.alert.records for row in self.rows)

    @property
    def open(self) -> int:
        """Alerts that nobody has acknowledged."""
        return sum(row.state == AlertState.OPEN for row in self.rows)

    @property
    def first_at(self) -> str:
        """UTC, ISO 8601."""
        return min(row.alert.raised_at for row in self.rows)

    @property
    def last_at(self) -> str:
        """UTC, ISO 8601."""
        return max(row.alert.latest for row in self.rows)

    @property
    def severity(self) -> str:
        """The severity that all its alerts have."""
        return self.rows[0].alert.severity

    @property
    def section(self) -> str:
        """The anchor of the type's section on the help page and in docs/alerts.md."""
        return section_of(self.type)

    @property
    def has_dead_letters(self) -> bool:
        """Whether any of the alerts has one that was neither replayed nor discarded."""
        return any(row.alert.dead_letter_id and row.state != AlertState.RESOLVED for row in self.rows)

    @property
    def is_replayable(self) -> bool:
        """Whether its dead letters can ever be delivered as they are."""
        found = AlertType.named(self.type)
        return found is None or found.replayable

    @property
    def bars(self) -> list[tuple[float, float]]:
        """The plot over time: for each bar that is not empty, its place and its height."""
        start, end = self.span
        step = max((end - start).total_seconds() / BARS, 1.0)
        counts = [0] * BARS
        for row in self.rows:
            place = int((datetime.fromisoformat(row.alert.latest) - start).total_seconds() / step)
            counts[min(max(place, 0), BARS - 1)] += row.alert.occurrences
        top = max(counts) or 1
        return [
            (place * BAR_WIDTH, max(count / top * BAR_HEIGHT, 2.0))
            for place, count in enumerate(counts)
            if count
        ]


@dataclass(frozen=True)
class ConnectionGroup:
    """The alerts of one connection."""

    connection: str
    """Empty for alerts that name none, such as those of invalid changes."""
    types: Sequence[TypeGroup]
    """The most frequent first."""

    @property
    def occurrences(self) -> int:
        """How often anything occurred."""
        return sum(group.occurrences for group in self.types)

    @property
    def records(self) -> int:
        """Records that the alerts are about."""
        return sum(group.records for group in self.types)

    @property
    def open_fatal(self) -> int:
        """Fatal alerts that nobody has acknowledged."""
        return sum(group.open for group in self.types if group.severity == Severity.FATAL)

    @property
    def last_at(self) -> str:
        """UTC, ISO 8601."""
        return max(group.last_at for group in self.types)

    @property
    def streams(self) -> list[str]:
        """The delivery streams that its alerts name."""
        names = (row.alert.delivery_stream_name for group in self.types for row in group.rows)
        return sorted({name for name in names if name})


@dataclass(frozen=True)
class AlertPage:
    """A page of the connections that a query chooses, those with the most alerts first."""

    query: Query
    groups: Part[ConnectionGroup]
    matching_alerts: int
    total: int
    """Alerts that are kept, whatever was asked for."""
    open: int
    open_fatal: int
    connections: Sequence[str]
    """Connections that the filter suggests: those with the most of the alerts that match."""


def read_query(arguments: Mapping[str, str]) -> Query:
    """The query of a URL. Raises `ValueError`, naming the parameter and its possible values."""
    query = Query.read(arguments)
    _check_choice("type", query.type, ["", *AlertType])
    _check_choice("state", query.state, ["", *AlertState])
    _check_choice("range", query.range, RANGES)
    for name, moment in (("since", query.since), ("until", query.until)):
        try:
            _moment(moment, datetime.min)
        except ValueError:
            raise ValueError(f"{name}: must be a date or a time such as 2026-11-25T12:00") from None
    return query


def alert_page(
    alerts: Sequence[Alert], states: Mapping[str, AlertState], query: Query, now: float
) -> AlertPage:
    """The page that is asked for, or the last one where there are fewer. `now` in Unix seconds."""
    moment = datetime.fromtimestamp(now, UTC)
    matching = _matching(alerts, states, query, moment)
    by_connection = _by_connection(matching, query.connection)
    volumes = {name: sum(alert.occurrences for alert in found) for name, found in by_connection.items()}
    names = [name for _, name in sorted((-volume, name) for name, volume in volumes.items())]
    part, span = part_of(names, query, GROUPS_PER_PAGE), _plotted(matching, query, moment)
    still_open = [alert.severity for alert in alerts if alert.id not in states]
    return AlertPage(
        query=query,
        groups=part.of(
            [ConnectionGroup(name, _types(by_connection[name], states, span)) for name in part.items]
        ),
        matching_alerts=len(matching),
        total=len(alerts),
        open=len(still_open),
        open_fatal=still_open.count(Severity.FATAL),
        connections=sorted(name for name in names[:CONNECTIONS_SUGGESTED] if name),
    )


def _matching(
    alerts: Sequence[Alert], states: Mapping[str, AlertState], query: Query, now: datetime
) -> list[Alert]:
    """The alerts that the query chooses."""
    since, until = (bound.isoformat(timespec="milliseconds") for bound in query.span(now))
    # Most pages ask for all alerts of a time, and there may be 10,000 of them.
    timely = [alert for alert in alerts if since <= alert.latest < until]
    if not query.is_narrow:
        return timely
    return [alert for alert in timely if query.asks_for(alert, states.get(alert.id, AlertState.OPEN))]


def _by_connection(alerts: Sequence[Alert], chosen: str) -> Mapping[str, list[Alert]]:
    """By connection, its alerts; of one connection alone where one is chosen."""
    found: defaultdict[str, list[Alert]] = defaultdict(list)
    for alert in alerts:
        for connection in alert.connection_ids or ("",):
            found[connection].append(alert)
    return {chosen: found[chosen]} if chosen and chosen in found else found


def _types(
    alerts: Sequence[Alert], states: Mapping[str, AlertState], span: tuple[datetime, datetime]
) -> list[TypeGroup]:
    """The types of a connection's alerts, the most frequent first."""
    by_type: defaultdict[str, list[Row]] = defaultdict(list)
    for alert in sorted(alerts, key=attrgetter("latest"), reverse=True):
        by_type[alert.type].append(Row(alert, states.get(alert.id, AlertState.OPEN)))
    groups = [TypeGroup(name, rows, span) for name, rows in by_type.items()]
    return sorted(groups, key=lambda group: -group.occurrences)


def _plotted(alerts: Sequence[Alert], query: Query, now: datetime) -> tuple[datetime, datetime]:
    """The span of the plots: the one asked for, as far as there are alerts."""
    since, until = query.span(now)
    if since.year == datetime.min.year:
        since = min((datetime.fromisoformat(alert.raised_at) for alert in alerts), default=now)
    return since, min(until, now)


def _text(alert: Alert) -> str:
    """Everything of an alert that a search looks through, in lower case."""
    parts = (
        alert.delivery_stream_name,
        alert.region,
        alert.error_code,
        alert.message,
        alert.aws_message,
        alert.task_id,
        alert.origin,
        *alert.connection_ids,
        *map(str, alert.audience_ids),
    )
    return " ".join(filter(None, parts)).lower()


def _moment(text: str, otherwise: datetime) -> datetime:
    """A time of the URL, which is UTC where it does not say. Raises `ValueError`."""
    found = datetime.fromisoformat(text) if text else otherwise
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def _check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: must be one of {', '.join(filter(None, choices))}")

"""The content of the System Alerts page: the alerts of a query, a page at a time, and links to others."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from urllib.parse import urlencode

from worker.failures.alert_types import AlertType, Severity
from worker.failures.alerts import Alert, AlertState

ROWS_PER_PAGE = 100


class Range(NamedTuple):
    """A choice of the time filter."""

    label: str
    span: timedelta | None
    """How far back from now; None for all of it."""


RANGES = {
    "1h": Range("Last hour", timedelta(hours=1)),
    "12h": Range("Last 12 hours", timedelta(hours=12)),
    "24h": Range("Last 24 hours", timedelta(hours=24)),
    "7d": Range("Last 7 days", timedelta(days=7)),
    "all": Range("All time", None),
}


@dataclass(frozen=True)
class Query:
    """The query of a request. Empty values ask for everything."""

    connection: str = ""
    type: str = ""
    state: str = ""
    range: str = "24h"
    page: str = "1"

    def link(self, **changes: str) -> str:
        """A relative link to this query, changed. Parameters at their defaults are left out."""
        changed = asdict(replace(self, **changes))
        return "?" + urlencode({name: value for name, value in changed.items() if value != DEFAULTS[name]})

    def admits(self, alert: Alert, state: AlertState, now: datetime) -> bool:
        """Whether it asks for this alert."""
        span = RANGES[self.range].span
        return (
            (not self.connection or self.connection in alert.connection_ids)
            and (not self.type or self.type == alert.type)
            and (not self.state or self.state == state)
            and (span is None or datetime.fromisoformat(alert.latest) >= now - span)
        )


DEFAULTS = asdict(Query())


class Row(NamedTuple):
    """An alert and what has become of it."""

    alert: Alert
    state: AlertState


@dataclass(frozen=True)
class AlertPage:
    """A page of the alerts that a query asks for, newest first."""

    query: Query
    rows: Sequence[Row]
    first: int
    """The position of the first row among the matching ones, from 1."""
    matching: int
    total: int
    """How many there are, whatever was asked for."""
    open: int
    open_fatal: int
    connections: Sequence[str]
    """Connections that any alert is about."""

    @property
    def last(self) -> int:
        """The position of the last row."""
        return self.first + len(self.rows) - 1

    @property
    def newer(self) -> str | None:
        """A link to the page before this one."""
        page = self.first // ROWS_PER_PAGE
        return self.query.link(page=str(page)) if page else None

    @property
    def older(self) -> str | None:
        """A link to the page after this one."""
        page = self.first // ROWS_PER_PAGE + 2
        return self.query.link(page=str(page)) if self.last < self.matching else None


def read_query(arguments: Mapping[str, str]) -> Query:
    """The query of a URL. Raises `ValueError`, naming the parameter and what it may be."""
    query = Query(**{name: arguments.get(name) or default for name, default in DEFAULTS.items()})
    _must_be_among("type", query.type, ["", *AlertType])
    _must_be_among("state", query.state, ["", *AlertState])
    _must_be_among("range", query.range, RANGES)
    if not re.fullmatch(r"[1-9][0-9]{0,5}", query.page):
        raise ValueError("page: must be a number from 1")
    return query


def alert_page(
    alerts: Iterable[Alert], states: Mapping[str, AlertState], query: Query, now: float
) -> AlertPage:
    """The page that is asked for, or the last one where there are fewer. `now` in Unix seconds."""
    rows = [Row(alert, states.get(alert.id, AlertState.OPEN)) for alert in alerts]
    moment = datetime.fromtimestamp(now, UTC)
    matching = [row for row in rows if query.admits(row.alert, row.state, moment)]
    start = ROWS_PER_PAGE * min(int(query.page) - 1, max(len(matching) - 1, 0) // ROWS_PER_PAGE)
    still_open = [row.alert.severity for row in rows if row.state == AlertState.OPEN]
    return AlertPage(
        query=query,
        rows=matching[start : start + ROWS_PER_PAGE],
        first=start + 1,
        matching=len(matching),
        total=len(rows),
        open=len(still_open),
        open_fatal=still_open.count(Severity.FATAL),
        connections=sorted({identifier for row in rows for identifier in row.alert.connection_ids}),
    )


def _must_be_among(name: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: must be one of {', '.join(filter(None, choices))}")

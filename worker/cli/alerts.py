"""alerts, acknowledge."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from operator import itemgetter, methodcaller
from typing import Any

import click
from redis.exceptions import RedisError

from worker.cli.application import application
from worker.cli.auditing import record_action
from worker.cli.choices import one_or_all
from worker.cli.completion import complete_alert
from worker.cli.explanations import explain
from worker.cli.filters import (
    connection_option,
    narrowed,
    recent,
    region_option,
    severity_option,
    since_option,
    stream_option,
    type_option,
)
from worker.cli.output import Columns, Listing, Row, count, json_option, note, result
from worker.cli.tables import text
from worker.cli.watching import show, watch_option
from worker.failures.alerts import Alert, Alerts, AlertState
from worker.state.audit import Action
from worker.state.registry import Registry

FOLLOW_INTERVAL_SECONDS = 1.0


def _latest(row: Row) -> str:
    """When it was last raised. Alerts of older versions do not say, and were raised once."""
    return str(row["last_raised_at"] or row["raised_at"])


COLUMNS: Columns = {
    "ID": itemgetter("id"),
    "LAST RAISED AT": _latest,
    "TIMES": itemgetter("occurrences"),
    "SEVERITY": itemgetter("severity"),
    "STATE": itemgetter("state"),
    "TYPE": itemgetter("type"),
    "STREAM": itemgetter("delivery_stream_name"),
    "REGION": itemgetter("region"),
    "RECORDS": itemgetter("records"),
    "MESSAGE": itemgetter("message"),
}


@click.command()
@click.option("--follow", is_flag=True, help="Wait for new ones and print them, until Ctrl-C.")
@watch_option
@since_option
@type_option
@severity_option
@stream_option
@region_option
@connection_option
@click.option("--open", "only_open", is_flag=True, help="Only those that nobody has acknowledged.")
@json_option
def alerts(
    *,
    follow: bool,
    watch: bool,
    since: timedelta | None,
    alert_type: str | None,
    severity: str | None,
    stream: str | None,
    region: str | None,
    connection: str | None,
    only_open: bool,
    as_json: bool,
) -> None:
    """List the system alerts, newest first.

    With --follow, those of --since come first, oldest first, and then what is new. While Redis is
    away, it waits.

    \b
    Examples:
      audience-firehose alerts --since 12h --open
      audience-firehose alerts --type 'Access Denied' --stream audiences
      audience-firehose alerts --open --watch
      audience-firehose alerts --follow --json | jq 'select(.severity == "fatal")'
    """
    if follow and watch:
        raise click.UsageError("give either --follow or --watch")
    services = application().services
    wanted = {
        "type": alert_type,
        "severity": severity,
        "delivery_stream_name": stream,
        "region": region,
        "connection_ids": connection,
        "state": AlertState.OPEN if only_open else None,
    }
    if follow:
        feed = AlertFeed(services.alerts, services.clock, services.sleep)
        _follow(feed, since, wanted, as_json=as_json)
    else:
        read = partial(_listing, services.alerts, services.registry, services.clock, since, wanted)
        show(read, services.clock, services.sleep, as_json=as_json, watch=watch)


@click.command()
@click.argument("alert_id", required=False, shell_complete=complete_alert)
@click.option("--all", "everything", is_flag=True, help="All that are open.")
@json_option
def acknowledge(alert_id: str | None, everything: bool, as_json: bool) -> None:
    """Mark an alert as seen. Nothing else changes."""
    one_or_all(alert_id, everything)
    services = application().services
    if alert_id:
        services.alerts.acknowledge(alert_id)
        number, acknowledged = 1, alert_id
    else:
        number = services.alerts.acknowledge_all()
        acknowledged = count(number, "alert")
    if number:
        record_action(services.audit, Action.ACKNOWLEDGE, acknowledged)
    result(f"acknowledged {acknowledged}", as_json=as_json, id=alert_id, acknowledged=number)


@dataclass(frozen=True)
class AlertFeed:
    """The alerts as they are raised."""

    alerts: Alerts
    clock: Callable[[], float]
    sleep: Callable[[float], None]

    def new(self, since: timedelta | None) -> Iterator[list[Row]]:
        """Yield the alerts of `since`, and every second what is new, newest first."""
        known = self._read_patiently(methodcaller("all"))
        last = known[0]["id"] if known else None
        yield recent(known, _latest, since, self.clock()) if since else []
        while True:
            self.sleep(FOLLOW_INTERVAL_SECONDS)
            found = self._read_patiently(methodcaller("newer_than", last))
            last = found[0]["id"] if found else last
            yield found

    def _read_patiently(self, read: Callable[[Alerts], Sequence[Alert]]) -> list[Row]:
        """The rows of the alerts that `read` returns. While Redis is away it waits, and says so once."""
        is_away = False
        while True:
            try:
                found = alert_rows(read(self.alerts), self.alerts)
            except RedisError as error:
                if not is_away:
                    note(f"{explain(error)}; waiting for it")
                is_away = True
                self.sleep(FOLLOW_INTERVAL_SECONDS)
            else:
                if is_away:
                    note("Redis is back")
                return found


def alert_rows(found: Sequence[Alert], alerts: Alerts) -> list[Row]:
    """The alerts, each with what has become of it."""
    states = alerts.states()
    return [{**asdict(alert), "state": states.get(alert.id, AlertState.OPEN)} for alert in found]


def _listing(
    alerts: Alerts,
    registry: Registry,
    clock: Callable[[], float],
    since: timedelta | None,
    wanted: Mapping[str, Any],
) -> Listing:
    rows = alert_rows(alerts.all(), alerts)
    connection = wanted["connection_ids"]
    if connection is not None and not any(connection in row["connection_ids"] for row in rows):
        # Raises for a connection that never was; one that is gone may still have alerts.
        registry.connection(connection)
    listed = narrowed(recent(rows, _latest, since, clock()), wanted)
    return Listing(listed, COLUMNS, "no alerts")


def _follow(feed: AlertFeed, since: timedelta | None, wanted: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the alerts of `since`, if it is given, and then each new one, until Ctrl-C."""
    note("waiting for alerts; Ctrl-C ends")
    try:
        for found in feed.new(since):
            for row in reversed(narrowed(found, wanted)):
                click.echo(json.dumps(row) if as_json else _line(row))
    except KeyboardInterrupt:
        return


def _line(row: Row) -> str:
    """An alert without a table around it."""
    return "  ".join(text(column(row)) for column in COLUMNS.values())

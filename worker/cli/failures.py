"""alerts, acknowledge, dead-letters, replay, discard."""

import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from operator import itemgetter

import click
from kombu.exceptions import OperationalError

from worker.broker.client import Sender, sender
from worker.cli.application import application
from worker.cli.auditing import record_action
from worker.cli.explanations import explain
from worker.cli.interruption import Interrupted, Interruption
from worker.cli.output import (
    Columns,
    Row,
    count,
    json_option,
    listing,
    note,
    note_beside_progress,
    progress,
    text,
)
from worker.errors import NotRegistered
from worker.failures.alert_types import AlertType
from worker.failures.alerts import Alert, Alerts, AlertState
from worker.failures.dead_letters import REMOVED_AT_ONCE, DeadLetter
from worker.failures.replay import NotReplayable, Replayer
from worker.flow.circuit_breakers import CircuitBreakers
from worker.queues import stream_of
from worker.services import Services
from worker.state.audit import Audit
from worker.state.registry import Registry

FOLLOW_EVERY = 1.0
"""Seconds."""
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

ALERT_COLUMNS: Columns = {
    "ID": itemgetter("id"),
    "RAISED AT": itemgetter("raised_at"),
    "SEVERITY": itemgetter("severity"),
    "STATE": itemgetter("state"),
    "TYPE": itemgetter("type"),
    "STREAM": itemgetter("delivery_stream_name"),
    "REGION": itemgetter("region"),
    "RECORDS": itemgetter("records"),
    "MESSAGE": itemgetter("message"),
}
DEAD_LETTER_COLUMNS: Columns = {
    "ID": itemgetter("id"),
    "RAISED AT": itemgetter("raised_at"),
    "TYPE": itemgetter("type"),
    "STREAM": itemgetter("delivery_stream_name"),
    "REGION": itemgetter("region"),
    "RECORDS": itemgetter("records"),
    "ATTEMPTS": itemgetter("attempts"),
    "ERROR": itemgetter("error_code"),
    "MESSAGE": itemgetter("message"),
}


def _duration(_: click.Context, __: click.Parameter, value: str | None) -> timedelta | None:
    if value is None:
        return None
    found = re.fullmatch(r"([0-9]{1,6})([smhdw])", value)
    if not found:
        raise click.BadParameter(f"{value!r} is not a duration such as 30m, 12h or 7d")
    return timedelta(**{UNITS[found[2]]: int(found[1])})


type_option = click.option(
    "--type",
    "alert_type",
    type=click.Choice([known.value for known in AlertType], case_sensitive=False),
    metavar="T",
    help="Only those of this type, such as 'Invalid Change'.",
)
connection_option = click.option("--connection", metavar="ID", help="Only what is for this connection.")


@click.command()
@click.option("--follow", is_flag=True, help="Wait for new ones and print them, until Ctrl-C.")
@click.option("--since", callback=_duration, metavar="12h", help="Only those of the last 30m, 12h, 7d …")
@type_option
@click.option("--stream", metavar="S", help="Only those of the streams of this name.")
@click.option("--open", "only_open", is_flag=True, help="Only those that nobody has acknowledged.")
@json_option
def alerts(
    *,
    follow: bool,
    since: timedelta | None,
    alert_type: str | None,
    stream: str | None,
    only_open: bool,
    as_json: bool,
) -> None:
    """List the system alerts, newest first.

    With --follow, those of --since come first, oldest first, and then what is new.

    \b
    Examples:
      audience-firehose alerts --since 12h --open
      audience-firehose alerts --type 'Access Denied' --stream audiences
      audience-firehose alerts --follow --json | jq 'select(.severity == "fatal")'
    """
    services = application().services
    found = services.alerts.all()
    recent = _since(found, since, services.clock())
    wanted = Wanted(alert_type, stream, only_open)
    if follow:
        note("waiting for alerts; Ctrl-C ends")
        _follow(services.alerts, found[0].id if found else None, recent if since else [], wanted, as_json)
    else:
        rows = wanted.among(alert_rows(recent, services.alerts))
        listing(rows, ALERT_COLUMNS, as_json=as_json, when_empty="no alerts")


@click.command()
@click.argument("alert_id", required=False)
@click.option("--all", "everything", is_flag=True, help="All that are open.")
def acknowledge(alert_id: str | None, everything: bool) -> None:
    """Note that an alert has been seen. Nothing else becomes of it, or of its records."""
    _one_or_all(alert_id, everything)
    services = application().services
    if alert_id:
        services.alerts.acknowledge(alert_id)
        acknowledged = alert_id
    else:
        acknowledged = count(services.alerts.acknowledge_all(), "alert")
    record_action(services.audit, "acknowledge", acknowledged)
    click.echo(f"acknowledged {acknowledged}")


@click.command("dead-letters")
@type_option
@connection_option
@json_option
def dead_letters(alert_type: str | None, connection: str | None, as_json: bool) -> None:
    """List what could not be delivered, oldest first: what happened to it, never the records."""
    letters = _letters(application().services, connection, alert_type)
    listing(
        [asdict(letter) for letter in letters],
        DEAD_LETTER_COLUMNS,
        as_json=as_json,
        when_empty="no dead letters",
    )


@click.command()
@click.argument("dead_letter_id", required=False)
@click.option("--all", "everything", is_flag=True, help="All of them; what cannot be replayed is left.")
@connection_option
@type_option
def replay(
    dead_letter_id: str | None, everything: bool, connection: str | None, alert_type: str | None
) -> None:
    """Send dead letters again, once the trouble that stopped them is fixed.

    The records go back into the queue they came from, and the alert counts as resolved.

    \b
    Examples:
      audience-firehose replay 0b8e6f0c-…
      audience-firehose replay --all --connection 123123-ab12cd34 --type 'Retry Limit Exceeded'
    """
    _one_or_all(dead_letter_id, everything, connection, alert_type)
    app = application()
    services = app.services
    run = Replayed(
        services.replayer, services.alerts, services.circuit_breakers, services.registry, services.audit
    )
    with _reporting(run) as replayed, sender(app) as broker:
        if dead_letter_id:
            replayed.one(services.dead_letters.get(dead_letter_id), broker)
        else:
            replayed.each(_letters(services, connection, alert_type), broker)
    if replayed.left:
        raise click.ClickException(f"{count(replayed.left, 'dead letter')} left, as said above")


@click.command()
@click.argument("dead_letter_id", required=False)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@connection_option
@type_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def discard(
    *,
    dead_letter_id: str | None,
    everything: bool,
    connection: str | None,
    alert_type: str | None,
    yes: bool,
) -> None:
    """Forget dead letters: their records are lost for good.

    \b
    Examples:
      audience-firehose discard 0b8e6f0c-…
      audience-firehose discard --all --type 'Record Too Large'
    """
    _one_or_all(dead_letter_id, everything, connection, alert_type)
    services = application().services
    if dead_letter_id:
        letters = [services.dead_letters.get(dead_letter_id)]
    else:
        letters = _letters(services, connection, alert_type)
    if not letters:
        note("no dead letters")
        return
    if not yes:
        _confirm_loss(letters)
    _discard(letters, services)


def _discard(letters: Sequence[DeadLetter], services: Services) -> None:
    """Discard the letters, many in a step, and say at the end, or where it was stopped, which ones."""
    discarded: list[DeadLetter] = []
    try:
        with Interruption() as interruption, progress(len(letters), "Discarding") as advance:
            for start in range(0, len(letters), REMOVED_AT_ONCE):
                step = letters[start : start + REMOVED_AT_ONCE]
                with interruption.step():
                    gone = services.dead_lettering.discard_many(step)
                    discarded += [letter for letter in step if letter.id in gone]
                advance(len(step))
    except Interrupted as stop:
        note("stopped; give the command again to go on")
        raise click.exceptions.Exit(stop.exit_status) from None
    else:
        if not discarded:
            raise NotRegistered("somebody else has just replayed or discarded what was to be discarded")
    finally:
        subject = letters[0].id if len(letters) == 1 else count(len(discarded), "dead letter")
        if discarded:
            record_action(services.audit, "discard", subject, _records(discarded))
            click.echo(f"discarded {subject}: {_records(discarded)}")


@dataclass(frozen=True)
class Wanted:
    """The alerts that were asked for; None stands for any."""

    alert_type: str | None
    stream: str | None
    only_open: bool

    def among(self, rows: Sequence[Row]) -> list[Row]:
        """Those of the rows that were asked for."""
        return [
            row
            for row in rows
            if self.alert_type in (None, row["type"])
            and self.stream in (None, row["delivery_stream_name"])
            and (not self.only_open or row["state"] == AlertState.OPEN)
        ]


def alert_rows(found: Sequence[Alert], alerts: Alerts) -> list[Row]:
    """The alerts, each with what has become of it."""
    states = alerts.states()
    return [{**asdict(alert), "state": states.get(alert.id, AlertState.OPEN)} for alert in found]


@dataclass
class Replayed:
    """The result of a replay so far."""

    replayer: Replayer
    alerts: Alerts
    circuit_breakers: CircuitBreakers
    registry: Registry
    audit: Audit
    letters: list[DeadLetter] = field(default_factory=list)
    left: int = 0
    """Letters that could not be sent."""

    def one(self, letter: DeadLetter, broker: Sender) -> None:
        """Send a letter again. Raises `NotReplayable` and `NotRegistered`."""
        self.replayer.replay(broker, letter)
        self.letters.append(letter)

    def each(self, letters: Sequence[DeadLetter], broker: Sender) -> None:
        """Send the letters again, without those that cannot be."""
        with Interruption() as interruption, progress(len(letters), "Replaying") as advance:
            for letter in letters:
                with interruption.step():
                    self._one_or_note(letter, broker)
                advance(1)

    def _one_or_note(self, letter: DeadLetter, broker: Sender) -> None:
        try:
            self.one(letter, broker)
        except (NotReplayable, NotRegistered) as error:
            self.left += 1
            note_beside_progress(f"left: {text(str(error))}")

    def __str__(self) -> str:
        records = sum(letter.records for letter in self.letters)
        return f"replayed {count(len(self.letters), 'dead letter')}: {count(records, 'record')}"


@contextmanager
def _reporting(replayed: Replayed) -> Iterator[Replayed]:
    """However the run ends: the alerts of what was replayed are resolved, and it is said what was."""
    try:
        yield replayed
    except Interrupted as stop:
        note("stopped; give the command again to go on")
        raise click.exceptions.Exit(stop.exit_status) from None
    except OperationalError as error:
        raise click.ClickException(f"{explain(error)}, then give the command again") from None
    else:
        if not replayed.letters:
            note("nothing was replayed")
    finally:
        if replayed.letters:
            _report(replayed)


def _report(replayed: Replayed) -> None:
    replayed.alerts.resolve({letter.id for letter in replayed.letters})
    record_action(replayed.audit, "replay", _subject(replayed.letters), _records(replayed.letters))
    click.echo(str(replayed))
    closed = replayed.circuit_breakers.blocking()
    for queue in sorted({letter.queue for letter in replayed.letters} & closed.keys()):
        breaker = closed[queue]
        if not breaker.is_paused:
            note(
                f"{queue} is failing ({breaker.reason}): the records wait there until it takes a batch again"
            )
        else:
            opening = _opening(replayed.registry, queue)
            note(f"{queue} is paused ({breaker.reason}): the records wait there until {opening}")


def _opening(registry: Registry, queue: str) -> str:
    connections = registry.snapshot().connections_to(stream_of(queue))
    connection = connections[0] if connections else "CONNECTION_ID"
    return f"`audience-firehose resume {connection}`"


def _confirm_loss(letters: Sequence[DeadLetter]) -> None:
    records = count(sum(letter.records for letter in letters), "record")
    if len(letters) == 1:
        about = f"{letters[0].type}: {text(letters[0].message)}"
    else:
        about = f"{count(len(letters), 'dead letter')}"
    try:
        click.confirm(f"Discard {records} ({about}) for good?", abort=True, err=True)
    except click.Abort:
        raise click.ClickException("nothing was discarded; --yes skips the question") from None


def _letters(services: Services, connection: str | None, alert_type: str | None) -> list[DeadLetter]:
    """The letters for this connection and of this type; None stands for any."""
    letters = services.dead_letters.all()
    if connection is not None:
        letters = [letter for letter in letters if connection in letter.connection_ids]
        if not letters:
            # Raises for a connection that never was; one that is gone may still have letters.
            services.registry.connection(connection)
    return [letter for letter in letters if alert_type in (None, letter.type)]


def _subject(letters: Sequence[DeadLetter]) -> str:
    return letters[0].id if len(letters) == 1 else count(len(letters), "dead letter")


def _records(letters: Sequence[DeadLetter]) -> str:
    return count(sum(letter.records for letter in letters), "record")


def _one_or_all(
    identifier: str | None, everything: bool, connection: str | None = None, alert_type: str | None = None
) -> None:
    if (connection or alert_type) and not everything:
        raise click.UsageError("--connection and --type narrow --all; give both")
    if bool(identifier) == everything:
        raise click.UsageError("give either an ID or --all")


def _since(found: Sequence[Alert], since: timedelta | None, now: float) -> list[Alert]:
    if since is None:
        return list(found)
    earliest = datetime.fromtimestamp(now, UTC) - since
    return [alert for alert in found if datetime.fromisoformat(alert.latest) >= earliest]


def _follow(alerts: Alerts, last: str | None, recent: Sequence[Alert], wanted: Wanted, as_json: bool) -> None:
    """Print what is recent, and then what comes after `last`, until Ctrl-C."""
    try:
        while True:
            for row in reversed(wanted.among(alert_rows(recent, alerts))):
                click.echo(json.dumps(row) if as_json else _line(row))
            time.sleep(FOLLOW_EVERY)
            recent = alerts.newer_than(last)
            last = recent[0].id if recent else last
    except KeyboardInterrupt:
        return


def _line(row: Row) -> str:
    """An alert without a table around it."""
    return "  ".join(text(show(row)) for show in ALERT_COLUMNS.values())

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
from worker.failures.alerts import Alert, Alerts, AlertState
from worker.failures.dead_letters import DeadLetter, DeadLetters
from worker.failures.replay import NotReplayable, Replayer
from worker.flow.circuit_breakers import CircuitBreakers
from worker.queues import stream_of
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


@click.command()
@click.option("--follow", is_flag=True, help="Wait for new ones and print them, until Ctrl-C.")
@click.option("--since", callback=_duration, metavar="12h", help="Only those of the last 30m, 12h, 7d …")
@json_option
def alerts(follow: bool, since: timedelta | None, as_json: bool) -> None:
    """List the system alerts, newest first.

    With --follow, those of --since come first, oldest first, and then what is new.

    \b
    Examples:
      audience-firehose alerts --since 12h
      audience-firehose alerts --follow --json | jq 'select(.severity == "fatal")'
    """
    services = application().services
    found = services.alerts.all()
    recent = _since(found, since, services.clock())
    if follow:
        note("waiting for alerts; Ctrl-C ends")
        _follow(services.alerts, found[0].id if found else None, recent if since else [], as_json)
    else:
        listing(alert_rows(recent, services.alerts), ALERT_COLUMNS, as_json=as_json, when_empty="no alerts")


@click.command()
@click.argument("alert_id", required=False)
@click.option("--all", "everything", is_flag=True, help="All that are open.")
def acknowledge(alert_id: str | None, everything: bool) -> None:
    """Note that an alert has been seen. Nothing else becomes of it, or of its records."""
    _one_or_all(alert_id, everything)
    found = application().services.alerts
    if alert_id:
        found.acknowledge(alert_id)
        click.echo(f"acknowledged {alert_id}")
    else:
        click.echo(f"acknowledged {count(found.acknowledge_all(), 'alert')}")


@click.command("dead-letters")
@json_option
def dead_letters(as_json: bool) -> None:
    """List what could not be delivered, oldest first: what happened to it, never the records."""
    letters = application().services.dead_letters.all()
    listing(
        [asdict(letter) for letter in letters],
        DEAD_LETTER_COLUMNS,
        as_json=as_json,
        when_empty="no dead letters",
    )


@click.command()
@click.argument("dead_letter_id", required=False)
@click.option("--all", "everything", is_flag=True, help="All of them; what cannot be replayed is left.")
@click.option("--connection", metavar="ID", help="With --all: only what is for this connection.")
def replay(dead_letter_id: str | None, everything: bool, connection: str | None) -> None:
    """Send dead letters again, once the trouble that stopped them is fixed.

    The records go back into the queue they came from, and the alert counts as resolved.

    \b
    Examples:
      audience-firehose replay 0b8e6f0c-…
      audience-firehose replay --all --connection 123123-ab12cd34
    """
    _one_or_all(dead_letter_id, everything)
    if connection and not everything:
        raise click.UsageError("--connection narrows --all; give both")
    app = application()
    dead_letters, registry = app.services.dead_letters, app.services.registry
    run = Replayed(app.services.replayer, app.services.alerts, app.services.circuit_breakers, registry)
    with _reporting(run) as replayed, sender(app) as broker:
        if dead_letter_id:
            replayed.one(dead_letters.get(dead_letter_id), broker)
        else:
            replayed.each(_letters(dead_letters, registry, connection), broker)
    if replayed.left:
        raise click.ClickException(f"{count(replayed.left, 'dead letter')} left, as said above")


@click.command()
@click.argument("dead_letter_id")
@click.option("--yes", is_flag=True, help="Do not ask.")
def discard(dead_letter_id: str, yes: bool) -> None:
    """Forget a dead letter: its records are lost for good."""
    services = application().services
    letter = services.dead_letters.get(dead_letter_id)
    if not yes:
        _confirm_loss(letter)
    services.dead_lettering.discard(letter)
    click.echo(f"discarded {letter.id}: {count(letter.records, 'record')}")


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


def _confirm_loss(letter: DeadLetter) -> None:
    question = f"Discard {count(letter.records, 'record')} ({letter.type}: {text(letter.message)}) for good?"
    try:
        click.confirm(question, abort=True, err=True)
    except click.Abort:
        raise click.ClickException("nothing was discarded; --yes skips the question") from None


def _letters(dead_letters: DeadLetters, registry: Registry, connection: str | None) -> list[DeadLetter]:
    letters = dead_letters.all()
    if connection is None:
        return letters
    found = [letter for letter in letters if connection in letter.connection_ids]
    if not found:
        # Raises for a connection that never was; one that is gone may still have letters.
        registry.connection(connection)
    return found


def _one_or_all(identifier: str | None, everything: bool) -> None:
    if bool(identifier) == everything:
        raise click.UsageError("give either an ID or --all")


def _since(found: Sequence[Alert], since: timedelta | None, now: float) -> list[Alert]:
    if since is None:
        return list(found)
    earliest = datetime.fromtimestamp(now, UTC) - since
    return [alert for alert in found if datetime.fromisoformat(alert.latest) >= earliest]


def _follow(alerts: Alerts, last: str | None, recent: Sequence[Alert], as_json: bool) -> None:
    """Print what is recent, and then what comes after `last`, until Ctrl-C."""
    try:
        while True:
            for row in reversed(alert_rows(recent, alerts)):
                click.echo(json.dumps(row) if as_json else _line(row))
            time.sleep(FOLLOW_EVERY)
            recent = alerts.newer_than(last)
            last = recent[0].id if recent else last
    except KeyboardInterrupt:
        return


def _line(row: Row) -> str:
    """An alert without a table around it."""
    return "  ".join(text(show(row)) for show in ALERT_COLUMNS.values())

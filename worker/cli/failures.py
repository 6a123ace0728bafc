"""dead-letters, replay, discard."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from operator import itemgetter

import click
from kombu.exceptions import OperationalError

from worker.broker.client import Sender, sender
from worker.cli.application import application
from worker.cli.auditing import record_action
from worker.cli.choices import one_or_all
from worker.cli.completion import complete_dead_letter
from worker.cli.explanations import explain
from worker.cli.filters import (
    connection_option,
    narrowed,
    recent,
    region_option,
    since_option,
    stream_option,
    type_option,
)
from worker.cli.interruption import Interrupted, Interruption
from worker.cli.output import (
    Columns,
    Listing,
    count,
    json_option,
    note,
    note_beside_progress,
    progress,
    result,
)
from worker.cli.tables import text
from worker.cli.watching import show, watch_option
from worker.errors import NotRegistered
from worker.failures.alert_types import AlertType
from worker.failures.alerts import Alerts
from worker.failures.dead_lettering import DeadLettering
from worker.failures.dead_letters import REMOVED_LETTERS, DeadLetter, DeadLetters
from worker.failures.replay import NotReplayable, Replayer
from worker.flow.circuit_breakers import CircuitBreakers
from worker.queues import stream_of
from worker.state.audit import Action, Audit, named
from worker.state.registry import Registry

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


@dataclass(frozen=True)
class Wanted:
    """The dead letters that were asked for; None stands for any."""

    alert_type: str | None = None
    stream: str | None = None
    region: str | None = None
    connection: str | None = None
    since: timedelta | None = None


@click.command("dead-letters")
@watch_option
@since_option
@type_option
@stream_option
@region_option
@connection_option
@json_option
def dead_letters(
    *,
    watch: bool,
    since: timedelta | None,
    alert_type: str | None,
    stream: str | None,
    region: str | None,
    connection: str | None,
    as_json: bool,
) -> None:
    """List what could not be delivered, oldest first: what happened to it, never the records.

    \b
    Examples:
      audience-firehose dead-letters --since 24h --type 'Access Denied'
      audience-firehose dead-letters --stream audiences --watch
    """
    services = application().services

    def read() -> Listing:
        wanted = Wanted(alert_type, stream, region, connection, since)
        letters = _letters(services.dead_letters, services.registry, services.clock(), wanted)
        return Listing([asdict(letter) for letter in letters], DEAD_LETTER_COLUMNS, "no dead letters")

    show(read, services.clock, services.sleep, as_json=as_json, watch=watch)


@click.command()
@click.argument("dead_letter_id", required=False, shell_complete=complete_dead_letter)
@click.option("--all", "everything", is_flag=True, help="All of them; what cannot be replayed is left.")
@type_option
@stream_option
@connection_option
@since_option
@json_option
def replay(
    *,
    dead_letter_id: str | None,
    everything: bool,
    alert_type: str | None,
    stream: str | None,
    connection: str | None,
    since: timedelta | None,
    as_json: bool,
) -> None:
    """Send dead letters again, once the trouble that stopped them is fixed.

    The records go back into the queue they came from, and the alert counts as resolved.

    \b
    Examples:
      audience-firehose replay 0b8e6f0c-…
      audience-firehose replay --all --connection 123123-ab12cd34 --type 'Retry Limit Exceeded'
    """
    wanted = Wanted(alert_type, stream, None, connection, since)
    one_or_all(dead_letter_id, everything, narrowing=wanted != Wanted())
    app = application()
    services = app.services
    run = Replayed(
        services.replayer,
        services.alerts,
        services.circuit_breakers,
        services.registry,
        services.audit,
        as_json,
    )
    with _reporting(run) as replayed, sender(app) as broker:
        if dead_letter_id:
            replayed.one(services.dead_letters.get(dead_letter_id), broker)
        else:
            letters = _letters(services.dead_letters, services.registry, services.clock(), wanted)
            replayed.each(letters, broker)
    if replayed.left:
        raise click.ClickException(f"{count(replayed.left, 'dead letter')} left, as said above")


@click.command()
@click.argument("dead_letter_id", required=False, shell_complete=complete_dead_letter)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@type_option
@stream_option
@connection_option
@since_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def discard(
    *,
    dead_letter_id: str | None,
    everything: bool,
    alert_type: str | None,
    stream: str | None,
    connection: str | None,
    since: timedelta | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Forget dead letters: their records are lost for good.

    \b
    Examples:
      audience-firehose discard 0b8e6f0c-…
      audience-firehose discard --all --type 'Record Too Large'
    """
    wanted = Wanted(alert_type, stream, None, connection, since)
    one_or_all(dead_letter_id, everything, narrowing=wanted != Wanted())
    services = application().services
    if dead_letter_id:
        letters = [services.dead_letters.get(dead_letter_id)]
    else:
        letters = _letters(services.dead_letters, services.registry, services.clock(), wanted)
    if not letters:
        note("no dead letters")
        return
    if not yes:
        _confirm_loss(letters)
    _discard(letters, services.dead_lettering, services.audit, as_json=as_json)


def _discard(
    letters: Sequence[DeadLetter], dead_lettering: DeadLettering, audit: Audit, *, as_json: bool
) -> None:
    """Discard the letters, many in a step, and say at the end, or where it was stopped, which ones."""
    discarded: list[DeadLetter] = []
    try:
        with Interruption() as interruption, progress(len(letters), "Discarding") as advance:
            for start in range(0, len(letters), REMOVED_LETTERS):
                step = letters[start : start + REMOVED_LETTERS]
                with interruption.step():
                    gone = dead_lettering.discard_many(step)
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
            record_action(audit, Action.DISCARD, subject, _detail(discarded))
            result(
                f"discarded {subject}: {_records(discarded)}",
                as_json=as_json,
                discarded=len(discarded),
                records=_sum_of_records(discarded),
            )


@dataclass
class Replayed:
    """The result of a replay so far."""

    replayer: Replayer
    alerts: Alerts
    circuit_breakers: CircuitBreakers
    registry: Registry
    audit: Audit
    as_json: bool
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
        return f"replayed {count(len(self.letters), 'dead letter')}: {_records(self.letters)}"


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
    record_action(replayed.audit, Action.REPLAY, _subject(replayed.letters), _detail(replayed.letters))
    result(
        str(replayed),
        as_json=replayed.as_json,
        replayed=len(replayed.letters),
        records=_sum_of_records(replayed.letters),
        left=replayed.left,
    )
    if invalid := sum(letter.type == AlertType.INVALID_CHANGE for letter in replayed.letters):
        note(f"{count(invalid, 'message')} of invalid changes: what is still invalid is a dead letter again")
    blocking = replayed.circuit_breakers.blocking()
    for queue in sorted({letter.queue for letter in replayed.letters} & blocking.keys()):
        breaker = blocking[queue]
        if not breaker.is_paused:
            note(
                f"{queue} is failing ({breaker.reason}): the records wait there until it takes a batch again"
            )
        else:
            command = _resume_command(replayed.registry, queue)
            note(f"{queue} is paused ({breaker.reason}): the records wait there until {command}")


def _resume_command(registry: Registry, queue: str) -> str:
    connections = registry.snapshot().connections_to(stream_of(queue))
    connection = connections[0] if connections else "CONNECTION_ID"
    return f"`audience-firehose resume {connection}`"


def _confirm_loss(letters: Sequence[DeadLetter]) -> None:
    records = _records(letters)
    if len(letters) == 1:
        about = f"{letters[0].type}: {text(letters[0].message)}"
    else:
        about = f"{count(len(letters), 'dead letter')}"
    try:
        click.confirm(f"Discard {records} ({about}) for good?", abort=True, err=True)
    except click.Abort:
        raise click.ClickException("nothing was discarded; --yes skips the question") from None


def _letters(dead_letters: DeadLetters, registry: Registry, now: float, wanted: Wanted) -> list[DeadLetter]:
    letters = dead_letters.all()
    connection = wanted.connection
    if connection is not None and not any(connection in letter.connection_ids for letter in letters):
        # Raises for a connection that never was; one that is gone may still have letters.
        registry.connection(connection)
    values = {
        "type": wanted.alert_type,
        "delivery_stream_name": wanted.stream,
        "region": wanted.region,
        "connection_ids": connection,
    }
    rows = recent(map(vars, letters), itemgetter("raised_at"), wanted.since, now)
    identifiers = {row["id"] for row in narrowed(rows, values)}
    return [letter for letter in letters if letter.id in identifiers]


def _subject(letters: Sequence[DeadLetter]) -> str:
    return letters[0].id if len(letters) == 1 else count(len(letters), "dead letter")


def _detail(letters: Sequence[DeadLetter]) -> str:
    """What the audit list says of the letters beside their number, or the ID of the only one."""
    records = _records(letters)
    return records if len(letters) == 1 else f"{records}: {named([letter.id for letter in letters])}"


def _records(letters: Sequence[DeadLetter]) -> str:
    return count(_sum_of_records(letters), "record")


def _sum_of_records(letters: Sequence[DeadLetter]) -> int:
    return sum(letter.records for letter in letters)

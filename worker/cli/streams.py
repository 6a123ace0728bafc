"""test, policy, pause, resume, status."""

import json
import re
from datetime import datetime
from functools import partial
from operator import itemgetter

import click

from schemas.records import Skip
from schemas.settings import Configuration
from worker.broker.client import has_workers, queue_lengths
from worker.cli.application import application
from worker.cli.auditing import record_action
from worker.cli.completion import complete_connection
from worker.cli.explanations import explain
from worker.cli.filters import configuration_option, narrowed, region_option, stream_option
from worker.cli.output import Columns, Listing, Row, count, json_option, note, result
from worker.cli.watching import show, watch_option
from worker.failures.dead_letters import DeadLetters
from worker.firehose.clients import Clients
from worker.firehose.errors import FIREHOSE_ERRORS, classify
from worker.firehose.health import describe, inspect, is_passed, key_arn, verdict
from worker.firehose.policy import policy_for
from worker.firehose.trial import make_trial_record, send_trial_record
from worker.flow.circuit_breakers import OPERATOR, CircuitBreakers
from worker.queues import CHANGES_QUEUE, Stream
from worker.state.audit import Action
from worker.state.counters import Counts
from worker.state.registry import stream_of_connection
from worker.state.skipped_audiences import OTHERS
from worker.status import Status, StreamState, StreamStatus

KEY_ARN = re.compile(r"arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+")

NO_WORKERS = (
    "no worker answers: nothing is delivered, whatever the states; start one: celery -A worker worker"
)
SHOWN_AUDIENCES = 10
"""Audiences without a connection that the table is followed by."""


def state_of(row: Row) -> str:
    """Flowing; or why not, and what has it flow again where nobody need do anything."""
    state, reason, since = row["state"], row["paused_reason"], row["paused_since"]
    if state == StreamState.PAUSED:
        return f"{state}: {reason}, since {since or 'an unknown time'}"
    if state == StreamState.FAILING:
        return f"{state}: {reason}, {count(row['failures'], 'failure')} since {since}; {_next_probe(row)}"
    return str(state)


def _next_probe(row: Row) -> str:
    if row["being_tried"]:
        return "one batch probes it"
    return f"next probe at {datetime.fromisoformat(row['paused_until']):%H:%M:%S} UTC"


STATUS_COLUMNS: Columns = {
    "STREAM": itemgetter("id"),
    "STATE": state_of,
    "ENQUEUED": itemgetter("accepted"),
    "QUEUED": itemgetter("queued"),
    "IN BROKER": itemgetter("in_broker"),
    "DELIVERED": itemgetter("delivered"),
    "REFUSED": itemgetter("refused"),
    "RETRYING": itemgetter("retrying"),
    "DEAD": itemgetter("dead"),
    "BILLED BYTES": itemgetter("billed_bytes"),
    "SAVED BYTES": itemgetter("saved_bytes"),
    "LAST DELIVERY": itemgetter("last_delivery"),
    "SKIPPED": lambda row: [f"{reason} {number}" for reason, number in row["skipped"].items()],
}


@click.command()
@click.argument("connection_id", shell_complete=complete_connection)
@click.option(
    "--send-record", is_flag=True, help='Also put one record, marked "IsTest":true, into the stream.'
)
@json_option
def test(connection_id: str, send_record: bool, as_json: bool) -> None:
    """Ask Firehose whether a connection's stream can be delivered to.

    Checks with DescribeDeliveryStream that the credentials are accepted and that the
    stream exists, is ACTIVE, takes records directly and is not in trouble with its
    encryption. Whether records are accepted is tried with --send-record, and otherwise
    nothing is sent. If every check passes, one batch probes a stream that was paused
    because AWS refused it.
    """
    app = application()
    connection = app.services.registry.connection(connection_id)
    configuration = app.services.registry.snapshot().configurations[connection.configuration]
    stream = stream_of_connection(connection)
    checks = inspect(app.clients, configuration, stream)
    if send_record and is_passed(checks):
        record = make_trial_record(
            connection.audience_id, int(app.services.clock()), append_newline=connection.append_newline
        )
        checks.append(send_trial_record(app.clients, configuration, stream, record))
        record_action(app.services.audit, Action.SEND_TEST_RECORD, stream.queue)
    for check in checks:
        outcome = "ok" if check.ok else "failed"
        result(
            f"{outcome:<8}{check.name:<13}{check.message}",
            as_json=as_json,
            id=check.name,
            outcome=outcome,
            message=check.message,
        )
    if not is_passed(checks):
        raise click.ClickException(verdict(checks, stream))
    if not send_record:
        note(f"no record was sent; try one: audience-firehose test {connection_id} --send-record")
    _probe_now(app.services.circuit_breakers, stream, connection_id, as_json=as_json)
    _note_dead(app.services.dead_letters, stream, connection_id)


def _account_id(_: click.Context, __: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"[0-9]{12}", value):
        raise click.BadParameter("an AWS account ID is 12 digits")
    return value


def _key_arn(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value and not KEY_ARN.fullmatch(value):
        raise click.BadParameter("a key's ARN, such as arn:aws:kms:us-east-1:123456789012:key/ID; no alias")
    return value


@click.command()
@click.argument("connection_id", shell_complete=complete_connection)
@click.option(
    "--account-id", required=True, metavar="N", callback=_account_id, help="The stream's AWS account."
)
@click.option(
    "--kms-key-arn",
    metavar="ARN",
    callback=_key_arn,
    help="The customer-managed key that the stream is encrypted with; otherwise Firehose is asked for it.",
)
@click.option("--json", "as_json", is_flag=True, help="The same in one line.")
def policy(connection_id: str, account_id: str, kms_key_arn: str | None, as_json: bool) -> None:
    """Print the IAM policy that a connection needs, and nothing beyond it: ready to paste."""
    app = application()
    connection = app.services.registry.connection(connection_id)
    stream = stream_of_connection(connection)
    if kms_key_arn is None:
        configuration = app.services.registry.snapshot().configurations[connection.configuration]
        kms_key_arn = _find_key(app.clients, configuration, stream)
    found = policy_for(stream, account_id, kms_key_arn)
    click.echo(json.dumps(found, indent=None if as_json else 2))


def _find_key(clients: Clients, configuration: Configuration, stream: Stream) -> str | None:
    """The customer-managed key of a stream, where Firehose names one."""
    try:
        return key_arn(describe(clients, configuration, stream))
    except FIREHOSE_ERRORS as error:
        code = classify(error).failure.error_code
        note(
            f"the stream cannot be described ({code}); where a customer-managed key encrypts it,"
            " name that with --kms-key-arn"
        )
        return None


@click.command()
@click.argument("connection_id", shell_complete=complete_connection)
@json_option
def pause(connection_id: str, as_json: bool) -> None:
    """Stop delivering to a connection's stream; its records wait in the broker.

    The stream is paused as a whole, for other connections to it as well.
    """
    services = application().services
    stream = stream_of_connection(services.registry.connection(connection_id))
    before = services.circuit_breakers.get(stream)
    sentence = f"{stream.name} in {stream.region}"
    if before and before.reason == OPERATOR:
        done = f"{sentence} was paused already, since {before.since}"
        result(done, as_json=as_json, id=stream.queue, paused=True)
        return
    services.circuit_breakers.pause(stream, OPERATOR)
    record_action(services.audit, Action.PAUSE, stream.queue)
    result(f"paused {sentence}", as_json=as_json, id=stream.queue, paused=True)
    if before and before.is_paused:
        note(f"it was paused for {before.reason}, since {before.since}: that is still to be fixed")
    others = [
        found for found in services.registry.snapshot().connections_to(stream) if found != connection_id
    ]
    if others:
        note(f"{count(len(others), 'other connection')} to this stream waits with it: {', '.join(others)}")


@click.command()
@click.argument("connection_id", shell_complete=complete_connection)
@json_option
def resume(connection_id: str, as_json: bool) -> None:
    """Let a paused stream flow again, whatever it was paused for."""
    services = application().services
    stream = stream_of_connection(services.registry.connection(connection_id))
    breaker = services.circuit_breakers.get(stream)
    if not services.circuit_breakers.resume(stream):
        sentence = f"{stream.name} in {stream.region} was not paused"
        result(sentence, as_json=as_json, id=stream.queue, resumed=False)
        return
    record_action(services.audit, Action.RESUME, stream.queue)
    result(f"resumed {stream.name} in {stream.region}", as_json=as_json, id=stream.queue, resumed=True)
    if breaker and breaker.reason != OPERATOR:
        word = breaker.word
        note(f"it was {word} for {breaker.reason}: where that is not fixed, it is {word} again")
    _note_dead(services.dead_letters, stream, connection_id)


@click.command()
@watch_option
@click.option(
    "--state",
    type=click.Choice([known.value for known in StreamState]),
    help="Only the streams in this state.",
)
@configuration_option
@stream_option
@region_option
@json_option
def status(
    *,
    watch: bool,
    state: str | None,
    configuration: str | None,
    stream: str | None,
    region: str | None,
    as_json: bool,
) -> None:
    """Show what has become of the records, per stream, and what waits for an operator.

    QUEUED counts messages that wait in the broker, of up to 500 records each. BILLED BYTES are
    those that AWS bills, and SAVED BYTES those that it does not for lines that share a record.
    All else counts records; DELIVERED, REFUSED and SKIPPED since the first of them.
    `audience.changes` is the queue that changes come in by. Filters leave it out.

    \b
    Examples:
      audience-firehose status --watch
      audience-firehose status --state paused
    """
    app = application()
    wanted = {
        "state": state,
        "configuration": configuration,
        "delivery_stream_name": stream,
        "region": region,
    }

    def read() -> Listing:
        found = app.services.status.read(partial(queue_lengths, app))
        rows = [_row(stream_status) for stream_status in found.rows]
        is_whole = not any(wanted.values())
        notes = _unconnected(found) if is_whole else []
        if not as_json and found.broker_answers and not has_workers(app):
            notes = [*notes, NO_WORKERS]
        return Listing(
            [*rows, _incoming_row(found)] if is_whole else narrowed(rows, wanted),
            STATUS_COLUMNS,
            "no such streams",
            notes=notes,
            # A broker that is away is no reason to withhold the rest.
            problem=explain(found.problem) if found.problem else None,
        )

    show(read, app.services.clock, app.services.sleep, as_json=as_json, watch=watch)


def _probe_now(
    circuit_breakers: CircuitBreakers, stream: Stream, connection_id: str, *, as_json: bool
) -> None:
    breaker = circuit_breakers.probe_now(stream)
    if breaker and breaker.reason == OPERATOR:
        note(f"an operator has paused it; let it flow: audience-firehose resume {connection_id}")
    elif breaker:
        sentence = f"it was {breaker.word} ({breaker.reason}) and flows again once a batch is accepted"
        click.echo(sentence, err=as_json)


def _note_dead(dead_letters: DeadLetters, stream: Stream, connection_id: str) -> None:
    if dead := dead_letters.records_by_stream()[stream]:
        advice = f"audience-firehose replay --all --connection {connection_id}"
        note(f"{count(dead, 'record')} could not be delivered before; send them again: {advice}")


def _row(status: StreamStatus) -> Row:
    stream, breaker = status.stream, status.breaker
    return {
        "id": stream.queue,
        "configuration": stream.configuration,
        "region": stream.region,
        "delivery_stream_name": stream.name,
        "registered": status.state is not StreamState.NOT_CONNECTED,
        "flowing": status.state is StreamState.FLOWING,
        "state": status.state,
        "paused_reason": breaker.reason if breaker else None,
        "paused_since": breaker.since if breaker else None,
        "paused_until": breaker.open_until if breaker else None,
        "failures": breaker.failures if breaker else 0,
        "being_tried": status.being_tried,
        "queued": status.waiting,
        "in_broker": status.in_broker,
        "dead": status.dead,
        **_counted(status.counts),
        "skipped_audiences": {},
    }


def _counted(counts: Counts) -> Row:
    """The counters under the names that the contract gives them."""
    counted = counts._asdict()
    # A counter for the metrics; a row has the number that lies dead now.
    del counted["dead_lettered"]
    return {"accepted": counted.pop("enqueued"), **counted}


def _incoming_row(found: Status) -> Row:
    """The changes before they have a stream, in the same columns."""
    nothing = dict.fromkeys(
        ("configuration", "region", "delivery_stream_name", "paused_reason", "paused_since", "paused_until")
    )
    counts = _counted(found.counts)
    ours = {
        "id": CHANGES_QUEUE,
        "registered": True,
        "flowing": True,
        "state": StreamState.FLOWING,
        "failures": 0,
        "being_tried": False,
        "queued": found.incoming,
        "in_broker": None,
        "dead": found.dead,
    }
    return {**nothing, **ours, **counts, "skipped_audiences": _by_audience(found)}


def _by_audience(found: Status) -> dict[str, dict[str, int]]:
    """By reason, records by audience id; `others` is the sum of audiences whose ids are not kept."""
    return {
        skip: {
            **{str(audience): number for audience, number in skips.by_audience.items()},
            **({OTHERS: skips.others} if skips.others else {}),
        }
        for skip, skips in found.skipped_audiences.items()
    }


def _unconnected(found: Status) -> list[str]:
    """A note that names the audiences whose changes go nowhere, those with the most changes first."""
    skips = found.skipped_audiences.get(Skip.NO_CONNECTION)
    if not skips or not skips.by_audience:
        return []
    shown = list(skips.by_audience.items())[:SHOWN_AUDIENCES]
    named = ", ".join(f"{audience} ({count(number, 'change')})" for audience, number in shown)
    rest = len(skips.by_audience) - len(shown)
    more = f" and {count(rest, 'other audience')} (--json lists them)" if rest else ""
    others = f"; {count(skips.others, 'change')} of further audiences, not listed" if skips.others else ""
    return [f"no connection for audience {named}{more}{others}; make one: audience-firehose connect --help"]

"""The command `explain`: the records that a change would make, and why others are missing."""

import json
import sys
from collections.abc import Callable
from typing import Any

import click
import orjson

from schemas.changes import Change, ChangeSchema, check_changes
from schemas.records import Skip, render
from worker.cli.application import application
from worker.cli.output import Row, json_option
from worker.config import current_settings
from worker.state.registry import Registry, Route

STDIN = "-"
REASONS = {
    Skip.NO_CONNECTION: "the audience has no connection; make one: audience-firehose connect --help",
    Skip.ANONYMOUS: "the connection sends no anonymous users, and it leaves nothing of this one but an MPID",
    Skip.UNCHANGED: "the identities that the connection sends are the same as before",
    Skip.NO_IDENTITIES: "the connection's exclusions leave no identity of the user",
}


@click.command()
@click.argument("change", metavar="CHANGE|-")
@json_option
def explain(change: str, as_json: bool) -> None:
    """Show the records that a change would make. Nothing is sent.

    CHANGE is a change as a JSON object. For each connection of its audience the record is shown,
    byte for byte, or the reason why there is none. Without a timestamp, the time is now.

    \b
    Examples:
      audience-firehose explain '{"type": "audience_deleted", "audience_id": 123123,
          "audience_internal_name": "Low"}'
      head -1 changes.jsonl | audience-firehose explain -
    """
    services = application().services
    checked = _checked(sys.stdin.read() if change == STDIN else change, services.clock)
    rows = _rows(checked, services.registry)
    for row in rows:
        click.echo(json.dumps(row) if as_json else "\n".join(_lines(row)))


def _checked(text: str, clock: Callable[[], float]) -> Change:
    """The change that the text holds. Raises `ClickException`, which shows no identity value."""
    try:
        item = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise click.ClickException(
            f"the change is not JSON, at line {error.lineno}, column {error.colno};"
            " of a file, give one line: head -1 FILE | audience-firehose explain -"
        ) from None
    schema = ChangeSchema(current_settings().catalogue)
    changes, invalid = check_changes(schema, [item], lambda: int(clock()))
    if invalid:
        raise click.ClickException(f"the change is invalid: {'; '.join(invalid[0].problems)}")
    return changes[0]


def _rows(change: Change, registry: Registry) -> list[Row]:
    """A row for each connection of the audience; one without a connection where it has none."""
    snapshot = registry.refresh()
    routes = snapshot.routes.get(change.audience_id, ())
    if not routes:
        return [_row(None, [], [Skip.NO_CONNECTION])]
    rendered = [(route, render(change, route.projection)) for route in routes]
    return [_row(route, [line.decode() for line in found.lines], found.skipped) for route, found in rendered]


def _row(route: Route | None, records: list[str], skipped: Any) -> Row:
    stream = route.stream if route else None
    return {
        "id": route.connection_id if route else None,
        "configuration": stream.configuration if stream else None,
        "region": stream.region if stream else None,
        "delivery_stream_name": stream.name if stream else None,
        "records": records,
        "skipped": [str(skip) for skip in skipped],
    }


def _lines(row: Row) -> list[str]:
    """A row for people: the connection, and below it the records and the reasons."""
    heading = (
        f"{row['id']}: {row['delivery_stream_name']} in {row['region']}" if row["id"] else "no connection"
    )
    reasons = [f"  no record ({skip}): {REASONS.get(Skip(skip), skip)}" for skip in row["skipped"]]
    return [heading, *(f"  {record.rstrip()}" for record in row["records"]), *reasons]

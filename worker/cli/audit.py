"""audit."""

from dataclasses import asdict
from operator import itemgetter

import click

from worker.cli.application import application
from worker.cli.output import Columns, json_option, listing

COLUMNS: Columns = {
    "AT": itemgetter("at"),
    "WHO": itemgetter("actor"),
    "ACTION": itemgetter("action"),
    "SUBJECT": itemgetter("subject"),
    "DETAIL": itemgetter("detail"),
}
DEFAULT_LIMIT = 100


@click.command()
@click.option("--limit", default=DEFAULT_LIMIT, show_default=True, metavar="N", help="Only the newest N.")
@json_option
def audit(limit: int, as_json: bool) -> None:
    """List who paused, resumed, replayed, discarded, acknowledged or changed settings, newest first."""
    entries = application().services.audit.latest(limit)
    rows = [{"id": f"{entry.at}-{position}", **asdict(entry)} for position, entry in enumerate(entries)]
    listing(rows, COLUMNS, as_json=as_json, when_empty="nothing is recorded")

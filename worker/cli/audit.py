"""audit."""

from dataclasses import asdict
from datetime import timedelta
from operator import itemgetter

import click

from worker.cli.application import application
from worker.cli.filters import narrowed, recent, since_option
from worker.cli.output import Columns, Listing, json_option, present
from worker.state.audit import Action

COLUMNS: Columns = {
    "AT": itemgetter("at"),
    "WHO": itemgetter("actor"),
    "ACTION": itemgetter("action"),
    "SUBJECT": itemgetter("subject"),
    "DETAIL": itemgetter("detail"),
}
DEFAULT_LIMIT = 100


@click.command()
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=DEFAULT_LIMIT,
    show_default=True,
    metavar="N",
    help="Only the newest N.",
)
@since_option
@click.option("--who", metavar="WHO", help="Only what this person did, such as 'operator@host'.")
@click.option("--action", type=click.Choice([known.value for known in Action]), help="Only this action.")
@click.option("--subject", metavar="ID", help="Only what was done to this queue, connection, alert …")
@json_option
def audit(
    *,
    limit: int,
    since: timedelta | None,
    who: str | None,
    action: str | None,
    subject: str | None,
    as_json: bool,
) -> None:
    """List who paused, resumed, replayed, discarded, acknowledged or changed settings, newest first.

    \b
    Examples:
      audience-firehose audit --since 24h --action discard
    """
    services = application().services
    entries = services.audit.latest()
    rows = [{"id": f"{entry.at}-{position}", **asdict(entry)} for position, entry in enumerate(entries)]
    of_time = recent(rows, itemgetter("at"), since, services.clock())
    listed = narrowed(of_time, {"actor": who, "action": action, "subject": subject})
    present(Listing(listed[:limit], COLUMNS, "nothing is recorded"), as_json=as_json)

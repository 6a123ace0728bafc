"""The options that narrow a listing. A row must pass all that are given."""

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click

from worker.cli.completion import complete_configuration, complete_connection
from worker.cli.output import Row
from worker.failures.alert_types import AlertType, Severity

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

Command = TypeVar("Command", bound=Callable[..., Any])


def _duration(_: click.Context, __: click.Parameter, value: str | None) -> timedelta | None:
    if value is None:
        return None
    found = re.fullmatch(r"([0-9]{1,6})([smhdw])", value)
    if not found:
        raise click.BadParameter(f"{value!r} is not a duration such as 30m, 12h or 7d")
    return timedelta(**{UNITS[found[2]]: int(found[1])})


since_option = click.option(
    "--since", callback=_duration, metavar="12h", help="Only those of the last 30m, 12h, 7d …"
)
type_option = click.option(
    "--type",
    "alert_type",
    type=click.Choice([known.value for known in AlertType], case_sensitive=False),
    metavar="T",
    help="Only those of this type, such as 'Invalid Change'.",
)
severity_option = click.option(
    "--severity",
    type=click.Choice([known.value for known in Severity]),
    help="Only those of this severity.",
)
connection_option = click.option(
    "--connection",
    metavar="ID",
    shell_complete=complete_connection,
    help="Only what is for this connection.",
)
configuration_option = click.option(
    "--configuration",
    metavar="NAME",
    shell_complete=complete_configuration,
    help="Only those of this configuration.",
)
stream_option = click.option("--stream", metavar="S", help="Only those of the streams of this name.")
region_option = click.option("--region", metavar="R", help="Only those of this region.")


def narrowed(rows: Iterable[Row], wanted: Mapping[str, Any]) -> list[Row]:
    """The rows that have these values. None stands for any, and a list has a value when it holds it."""
    asked = {name: value for name, value in wanted.items() if value is not None}
    return [row for row in rows if all(_has(row[name], value) for name, value in asked.items())]


def recent(
    rows: Iterable[Row], time_of: Callable[[Row], str], since: timedelta | None, now: float
) -> list[Row]:
    """The rows whose time (UTC, ISO 8601) is of the last `since`; all where that is None."""
    if since is None:
        return list(rows)
    earliest = datetime.fromtimestamp(now, UTC) - since
    return [row for row in rows if datetime.fromisoformat(time_of(row)) >= earliest]


def _has(found: Any, value: Any) -> bool:
    return value in found if isinstance(found, list | tuple) else bool(found == value)

"""How commands show things: tables for people, JSON lines for programs."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click

from worker.cli.tables import layout, plain
from worker.config import allows_colours

Row = Mapping[str, Any]
Columns = Mapping[str, Callable[[Row], Any]]
"""By heading, what a row shows under it."""

COLOURED = ("STATE", "SEVERITY")
"""The headings of columns whose text has a colour on a terminal."""
COLOURS = {
    "flowing": "green",
    "failing": "yellow",
    "paused": "red",
    "not connected": "yellow",
    "warning": "yellow",
    "fatal": "red",
}
"""By the beginning of a text."""

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


@dataclass(frozen=True)
class Listing:
    """The rows that a command lists at one moment, and its notes."""

    rows: Sequence[Row]
    columns: Columns
    when_empty: str
    notes: Sequence[str] = ()
    """Printed beside the rows, for people."""
    problem: str | None = None
    """Why a part of it is unknown: the command fails, after it has shown the rest."""

    def lines(self) -> Iterator[str]:
        """The rows as this terminal shows them; as wide as they are, and without colours, elsewhere."""
        width = shutil.get_terminal_size().columns if is_terminal() else None
        cells = [[show(row) for show in self.columns.values()] for row in self.rows]
        return layout(cells, list(self.columns), width, colour if has_colours() else plain)


def present(found: Listing, *, as_json: bool) -> None:
    """Print the rows: as JSON whole, and as a table what the columns say. Raises `ClickException`."""
    if as_json:
        for row in found.rows:
            click.echo(json.dumps(row))
    elif found.rows:
        for line in found.lines():
            click.echo(line)
    else:
        note(found.when_empty)
    if not as_json:
        for line in found.notes:
            note(line)
    if found.problem:
        raise click.ClickException(found.problem)


def result(sentence: str, *, as_json: bool, **data: Any) -> None:
    """Print what a command has done: a sentence for people, or an object for programs."""
    click.echo(json.dumps(data) if as_json else sentence)


def is_terminal() -> bool:
    """Whether a person reads what is printed."""
    return sys.stdout.isatty()


def has_colours() -> bool:
    """Whether a person sees colours and wants them."""
    return is_terminal() and allows_colours()


def colour(heading: str, whole: str, piece: str) -> str:
    """A piece of a table with the colours of a terminal."""
    if whole == heading:
        return click.style(piece, bold=True)
    if heading not in COLOURED:
        return piece
    found = next((name for beginning, name in COLOURS.items() if whole.startswith(beginning)), None)
    return click.style(piece, fg=found) if found else piece


def note(message: str) -> None:
    """Tell the operator something that is no part of the output."""
    click.echo(message, err=True)


def count(number: int, noun: str) -> str:
    """`1 record`, `1,000 records`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@contextmanager
def progress(length: int | None, label: str) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal's stderr, nothing elsewhere. Tell it of each step's size."""
    if not length or not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield bar.update


def note_beside_progress(message: str) -> None:
    """A note while a progress bar may stand in its line."""
    # To the line's beginning, and clear it: the bar draws itself again at its next step.
    click.echo(f"\r\x1b[K{message}" if sys.stderr.isatty() else message, err=True)

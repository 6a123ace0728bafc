"""How commands show things: aligned columns for people, JSON lines for programs."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

Row = Mapping[str, Any]
Columns = Mapping[str, Callable[[Row], Any]]
"""By heading, what a row shows under it."""

GAP = "  "
NOTHING = "-"

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


def listing(rows: Sequence[Row], columns: Columns, *, as_json: bool, when_empty: str) -> None:
    """Print the rows: as JSON whole, and as a table what the columns say."""
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
    elif rows:
        for line in table([[show(row) for show in columns.values()] for row in rows], list(columns)):
            click.echo(line)
    else:
        note(when_empty)


def table(rows: Sequence[Sequence[Any]], headings: Sequence[str]) -> Iterator[str]:
    """The lines of a table. Columns of numbers are flush right."""
    numeric = [any(isinstance(cell, int) for cell in column) for column in zip(*rows, strict=True)]
    cells = [list(headings), *([text(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        aligned = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ]
        yield GAP.join(aligned).rstrip()


def text(value: Any) -> str:
    """A value for a person's terminal: nothing in it can move the cursor."""
    if value is None or value in ("", [], ()):
        return NOTHING
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return "".join(character if character.isprintable() else "?" for character in str(value))


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

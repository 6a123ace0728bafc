"""Rows as lines for people: a table where it fits the terminal, and else a block of lines for each row."""

import textwrap
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

import click

GAP = "  "
NOTHING = "-"
MIN_WRAPPED_WIDTH = 16
"""Characters of a column whose text is wrapped. Below, blocks are easier to read than a table."""

Row = Sequence[Any]
Paint = Callable[[str, str, str], str]
"""From a heading, the whole text under it and a piece of that: the piece as a terminal shows it."""


def plain(_heading: str, _whole: str, piece: str) -> str:
    """Paint nothing."""
    return piece


def layout(
    rows: Sequence[Row], headings: Sequence[str], width: int | None = None, paint: Paint = plain
) -> Iterator[str]:
    """The lines of the rows, at most `width` characters long where they can be; None for any length.

    Text with spaces is wrapped within its column. If that is not enough, each row is a block of lines, as
    in psql's automatic expanded format. Nothing is cut off.
    """
    cells = [list(map(text, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    if width is not None and not _fits(widths, width):
        widths = _wrapped(cells, headings, widths, width)
        if not _fits(widths, width):
            return _blocks(cells, headings, width, paint)
    return _table(cells, headings, widths, _numeric(rows), paint)


def text(value: Any) -> str:
    """A value for a person's terminal: nothing in it can move the cursor."""
    if value is None or value in ("", [], ()):
        return NOTHING
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return "".join(character if character.isprintable() else "?" for character in str(value))


def _fits(widths: Sequence[int], width: int) -> bool:
    return sum(widths) + len(GAP) * (len(widths) - 1) <= width


def _numeric(rows: Sequence[Row]) -> list[bool]:
    return [any(isinstance(value, int) for value in column) for column in zip(*rows, strict=True)]


def _wrapped(
    cells: Sequence[list[str]], headings: Sequence[str], widths: Sequence[int], width: int
) -> list[int]:
    """The widths with those of text reduced, the widest first, until they fit or cannot be reduced."""
    narrowest = [
        max([len(heading), *(_narrowest(cell) for cell in column)])
        for heading, *column in zip(headings, *cells, strict=True)
    ]
    found = list(widths)
    while not _fits(found, width):
        widest = max(range(len(found)), key=lambda i: found[i] - narrowest[i])
        if found[widest] <= narrowest[widest]:
            break
        found[widest] -= 1
    return found


def _narrowest(cell: str) -> int:
    """The width that a cell can be wrapped to: its longest word, and enough for reading."""
    longest_word = max(map(len, cell.split(" ")))
    return max(longest_word, min(len(cell), MIN_WRAPPED_WIDTH))


def _table(
    cells: Sequence[list[str]],
    headings: Sequence[str],
    widths: Sequence[int],
    numeric: Sequence[bool],
    paint: Paint,
) -> Iterator[str]:
    """Columns of numbers are flush right."""
    for row in [list(headings), *cells]:
        wrapped = [_lines(cell, width) for cell, width in zip(row, widths, strict=True)]
        for pieces in zip_longest(*wrapped, fillvalue=""):
            aligned = [
                piece.rjust(width) if right else piece.ljust(width)
                for piece, width, right in zip(pieces, widths, numeric, strict=True)
            ]
            # What is behind the last text is no part of a line, and painted it would be.
            filled = len(GAP.join(aligned).rstrip())
            painted, length = [], 0
            for heading, cell, piece in zip(headings, row, aligned, strict=True):
                kept = piece[: max(filled - length, 0)]
                painted.append(paint(heading, cell, kept) if kept.strip() else kept)
                length += len(piece) + len(GAP)
            yield GAP.join(painted).rstrip()


def _blocks(cells: Sequence[list[str]], headings: Sequence[str], width: int, paint: Paint) -> Iterator[str]:
    """Each row as its first text and, indented below it, the others behind their headings."""
    for first, *others in cells:
        yield paint(headings[0], first, first)
        line = ""
        for heading, cell in zip(headings[1:], others, strict=True):
            if cell == NOTHING:
                continue
            for number, piece in enumerate(_lines(f"{heading.lower()} {cell}", width - len(GAP))):
                painted = paint(heading, cell, piece)
                if line and (number or _length(line) + len(GAP) + len(piece) > width):
                    yield line
                    line = ""
                line += GAP + painted
        if line:
            yield line


def _lines(cell: str, width: int) -> list[str]:
    return textwrap.wrap(cell, width, break_on_hyphens=False) or [cell]


def _length(line: str) -> int:
    """Characters, without the codes of colours."""
    return len(click.unstyle(line))

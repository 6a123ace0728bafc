"""Rows as lines: tables where they fit, and blocks where they do not."""

import click
import pytest

from worker.cli.output import colour
from worker.cli.tables import layout, text

HEADINGS = ["ID", "STATE", "N", "MESSAGE"]
ROWS = [
    ["first", "paused: operator", 5, "the stream is paused until somebody resumes it"],
    ["second", "flowing", 1000, None],
]


def lines(width=None, rows=ROWS):
    return list(layout(rows, HEADINGS, width))


def test_a_table_is_aligned_and_its_numbers_are_flush_right():
    rows = [["a", 5, None], ["long", 1000, "x"]]
    assert list(layout(rows, ["NAME", "N", "Z"])) == ["NAME     N  Z", "a        5  -", "long  1000  x"]


def test_a_table_that_fits_is_as_it_is_without_a_terminal():
    assert lines(width=max(map(len, lines()))) == lines()


def test_a_text_is_wrapped_in_its_column_where_the_table_is_too_wide():
    assert lines(width=60) == [
        "ID      STATE                N  MESSAGE",
        "first   paused: operator     5  the stream is paused until",
        "                                somebody resumes it",
        "second  flowing           1000  -",
    ]


def test_a_row_is_a_block_where_no_table_fits_and_what_is_missing_is_left_out():
    assert lines(width=40) == [
        "first",
        "  state paused: operator  n 5",
        "  message the stream is paused until",
        "  somebody resumes it",
        "second",
        "  state flowing  n 1000",
    ]


@pytest.mark.parametrize("width", range(24, 90))
def test_no_line_is_longer_than_the_terminal_and_nothing_is_cut_off(width):
    shown = lines(width)
    assert max(map(len, shown)) <= width
    words = " ".join(shown).split()
    for row in ROWS:
        for value in row:
            assert set(text(value).split()) - {"-"} <= set(words)


def test_a_word_that_is_longer_than_the_terminal_is_broken_and_not_cut_off():
    (heading, *rest) = layout([["id", "x" * 50]], ["ID", "WORD"], 20)
    assert heading == "id"
    assert "".join(rest).count("x") == 50
    assert max(map(len, rest)) <= 20


def test_colours_change_no_text_and_no_alignment():
    for width in (None, 60, 40):
        painted = list(layout(ROWS, HEADINGS, width, colour))
        assert list(map(click.unstyle, painted)) == lines(width)
    assert click.style("paused: operator", fg="red") in "\n".join(layout(ROWS, HEADINGS, None, colour))


def test_nothing_in_a_cell_moves_the_cursor():
    assert text("a\x1b[2Jb\nc") == "a?[2Jb?c"
    assert text(["a", 1]) == "a, 1"

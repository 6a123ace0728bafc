"""`--watch`: a listing that is drawn again every two seconds, until Ctrl-C."""

import shutil
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import click
from redis.exceptions import RedisError

from worker.cli.explanations import explain
from worker.cli.output import Listing, is_terminal, present

WATCH_INTERVAL_SECONDS = 2.0
OWN_SCREEN, FORMER_SCREEN = "\x1b[?1049h", "\x1b[?1049l"
"""xterm's: the lines that were on the terminal before are there again afterwards."""
HOME, CLEAR_LINE, CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"

watch_option = click.option("--watch", is_flag=True, help="Show it again every 2 s, until Ctrl-C.")


def show(
    read: Callable[[], Listing],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
    *,
    as_json: bool,
    watch: bool,
) -> None:
    """Print what `read` returns, once or until Ctrl-C. Raises `ClickException`."""
    if not watch:
        present(read(), as_json=as_json)
        return
    if as_json or not is_terminal():
        raise click.UsageError("--watch is for a terminal, without --json")
    with _own_screen():
        while True:
            _draw(_lines(read, clock()))
            sleep(WATCH_INTERVAL_SECONDS)


@contextmanager
def _own_screen() -> Iterator[None]:
    """Draw on a screen of our own; Ctrl-C ends the block, and is no error."""
    click.echo(OWN_SCREEN, nl=False)
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        click.echo(FORMER_SCREEN, nl=False)


def _lines(read: Callable[[], Listing], now: float) -> list[str]:
    """The screen's lines. While Redis is away they say so, and the next ones may not."""
    heading = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M:%S} UTC; Ctrl-C ends"
    try:
        found = read()
    except RedisError as error:
        return [heading, "", explain(error)]
    listed = list(found.lines()) if found.rows else [found.when_empty]
    width = shutil.get_terminal_size().columns
    sentences = [*found.notes, *([found.problem] if found.problem else [])]
    notes = [line for text in sentences for line in textwrap.wrap(text, width)]
    return [heading, "", *listed, *([""] if notes else []), *notes]


def _draw(lines: list[str]) -> None:
    """Draw over the lines before, without a moment in which the screen is empty."""
    height = shutil.get_terminal_size().lines
    if len(lines) > height:
        lines = [*lines[: height - 1], f"… {len(lines) - height + 1} more lines"]
    click.echo(HOME + "\n".join(line + CLEAR_LINE for line in lines) + CLEAR_BELOW, nl=False)

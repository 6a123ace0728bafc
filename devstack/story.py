"""The demo's output, and its checks."""

import textwrap
import time
from collections.abc import Callable
from itertools import count
from typing import TypeVar

T = TypeVar("T")

TIMEOUT_SECONDS = 60.0
"""Seconds, for what should take a few."""
POLL_INTERVAL_SECONDS = 0.1

_numbers = count(1)


class Mismatch(Exception):
    """The result is not the promised one."""


def step(title: str) -> None:
    """Print the title of the next step, with its number."""
    tell(f"\n{next(_numbers)}. {title}")


def tell(text: str) -> None:
    """Print text at once."""
    print(text, flush=True)


def show(text: str) -> None:
    """Print the output of a program or a stream, indented."""
    tell(textwrap.indent(text.strip("\n"), "   "))


def expect(what: str, holds: bool) -> None:
    """Raise `Mismatch` unless it holds."""
    if not holds:
        raise Mismatch(what)


def eventually(what: str, question: Callable[[], T], every: float = POLL_INTERVAL_SECONDS) -> T:
    """Ask until the answer is true, `every` so many seconds. Raises `Mismatch` after the timeout."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not (answer := question()):
        expect(f"waited {TIMEOUT_SECONDS:.0f} seconds in vain for {what}", time.monotonic() < deadline)
        time.sleep(every)
    return answer

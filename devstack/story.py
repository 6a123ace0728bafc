"""How the demo tells what happens, and how it notices that something else happened."""

import textwrap
import time
from collections.abc import Callable
from itertools import count
from typing import TypeVar

T = TypeVar("T")

TIMEOUT = 30.0
"""Seconds, for what should take a few."""
POLL_EVERY = 0.1

_numbers = count(1)


class Mismatch(Exception):
    """What happened is not what was promised."""


def step(title: str) -> None:
    """A new step begins."""
    tell(f"\n{next(_numbers)}. {title}")


def tell(text: str) -> None:
    """Say something, now."""
    print(text, flush=True)


def show(text: str) -> None:
    """Show what a program or a stream says."""
    tell(textwrap.indent(text.strip("\n"), "   "))


def expect(what: str, holds: bool) -> None:
    """Raise `Mismatch` unless it holds."""
    if not holds:
        raise Mismatch(what)


def eventually(what: str, question: Callable[[], T]) -> T:
    """The first answer that says something. Raises `Mismatch` where there is none in time."""
    deadline = time.monotonic() + TIMEOUT
    while not (answer := question()):
        expect(f"waited {TIMEOUT:.0f} seconds in vain for {what}", time.monotonic() < deadline)
        time.sleep(POLL_EVERY)
    return answer

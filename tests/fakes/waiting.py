"""Waits for other processes, with a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

from full_size import FULL

T = TypeVar("T")

WAIT_SECONDS = 600.0 if FULL else 120.0
"""Seconds until a test gives up on another process. In full size a story beside others needs minutes."""


def eventually(
    answer: Callable[[], T], timeout: float = WAIT_SECONDS, what: str = "", every: float = 0.02
) -> T:
    """Wait until `answer` returns something true, and return it. Fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (found := answer()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what or 'it'} did not come true in {timeout} s; it is {found!r}")
        time.sleep(every)
    return found

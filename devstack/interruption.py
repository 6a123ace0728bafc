"""Signals that end a program which has started others, without leaving one of them running."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption(BaseException):
    """A signal asked this program to end. No `Exception`, so that no handler of errors catches it."""


class Interruptions:
    """Raises `Interruption` in its context at the first such signal; further ones change nothing."""

    def __init__(self) -> None:
        self.signal: int | None = None
        """The number of the signal that came."""
        self._held = False

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._on_signal) for number in ENDING}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Delay signals until the context ends, so that its block runs to its end."""
        was_held, self._held = self._held, True
        before = self.signal
        try:
            yield
        finally:
            self._held = was_held
        if self.signal != before and not was_held:
            raise Interruption

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.signal is None:
            self.signal = number
            if not self._held:
                raise Interruption

"""Signals that end a program which has started others, at no moment that would leave one behind."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption(BaseException):
    """Somebody wants this program to end. Not an `Exception`: nothing handles it but the end itself."""


class Interruptions:
    """Raises `Interruption` in its context at the first such signal; further ones change nothing."""

    def __init__(self) -> None:
        self.signal: int | None = None
        """The one that came."""
        self._held = False

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._on_signal) for number in ENDING}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """What is done here is done wholly; a signal that comes meanwhile counts afterwards."""
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

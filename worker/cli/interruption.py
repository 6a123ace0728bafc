"""Ctrl-C and SIGTERM, between two steps and never within one."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SIGNALLED = 128
"""A shell adds this to a signal's number to make an exit status."""


class Interrupted(KeyboardInterrupt):
    """Somebody wants us to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_status = SIGNALLED + number


class Interruption:
    """While entered, a signal waits for the end of a `step`; a second one does not."""

    def __init__(self) -> None:
        self._in_step = False
        self._signal: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Run a block without interruption. Raises `Interrupted` at its end where a signal came."""
        self._in_step = True
        try:
            yield
        finally:
            self._in_step = False
        if self._signal is not None:
            raise Interrupted(self._signal)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        waits = self._in_step and self._signal is None
        self._signal = number
        if not waits:
            raise Interrupted(number)

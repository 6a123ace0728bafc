"""A clock that stands until a test moves it."""

from dataclasses import dataclass

NOON = 1_700_000_000.0
"""14 November 2023, 22:13:20 UTC."""


@dataclass
class Clock:
    """Called, it says the time in Unix seconds."""

    now: float = NOON

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Return at once: what sleeps between two tries repeats what it does, whatever the time."""

    def advance(self, seconds: float) -> None:
        self.now += seconds

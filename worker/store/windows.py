"""Sets by window of time, of what is remembered for a while. A set expires whole and costs less than keys."""

from typing import NamedTuple

REMEMBERED_WINDOWS = 5
"""The current one and those before it that are looked into."""


class Windows(NamedTuple):
    """The sets of one kind. What is added to the current one is remembered for four windows at least."""

    prefix: str
    seconds: int
    """The length of a window."""

    @property
    def keep_seconds(self) -> int:
        """For which a set is kept from the last addition on."""
        return REMEMBERED_WINDOWS * self.seconds

    def keys(self, now: float) -> list[str]:
        """The sets' keys at a time (Unix seconds), the current one first."""
        current = int(now // self.seconds)
        return [f"{self.prefix}:{current - before}" for before in range(REMEMBERED_WINDOWS)]

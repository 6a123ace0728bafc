"""The answer to "how many cores, and how much Redis?", computed from measured costs. Pure."""

from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.growth.settings import Point

USED_SHARE = 0.6
"""The share of a core, or of Redis's one thread, that is planned for. The rest is for peaks."""
RATES = (100, 1_000, 5_000, 20_000, 50_000)
"""Changes a second."""
OUTAGE_HOURS = (1, 4, 24)
MICROSECONDS = 1_000_000
GB = 1_000_000_000


class Cost(NamedTuple):
    """The measured costs of a change."""

    name: str
    cpu_microseconds: float
    redis_microseconds: float
    redis_bytes: float

    def cores(self, rate: float) -> float:
        """Cores for the workers, at so many changes a second."""
        return rate * self.cpu_microseconds / MICROSECONDS / USED_SHARE

    def redis_share(self, rate: float) -> float:
        """The share of Redis's thread that is used."""
        return rate * self.redis_microseconds / MICROSECONDS

    def redis_gb(self, rate: float, hours: float) -> float:
        """GB of Redis for what waits at the end of an outage of so many hours."""
        return rate * hours * 3600 * self.redis_bytes / GB

    @property
    def most_changes(self) -> float:
        """Changes a second at which one Redis is used as far as is planned for."""
        return USED_SHARE * MICROSECONDS / self.redis_microseconds


def costs(points: list[Point]) -> list[Cost]:
    """The costs of changes that are sent singly, and of those that are sent 500 a message."""
    of_messages = {point.value: point for point in points if point.axis == "changes_per_message"}
    return [
        Cost(name, found.cpu_microseconds, found.redis_microseconds, found.redis_bytes)
        for name, found in (
            ("1 a message", of_messages[min(of_messages)]),
            (f"{max(of_messages)} a message", of_messages[max(of_messages)]),
        )
    ]


def table(points: list[Point]) -> Iterator[str]:
    """The table, as Markdown."""
    hours = " | ".join(f"{hours} h" for hours in OUTAGE_HOURS)
    yield f"| changes a second | sent | cores for workers | Redis's thread | GB of Redis, outage of {hours} |"
    yield "|---|---|---|---|" + "---|" * len(OUTAGE_HOURS)
    for rate in RATES:
        for cost in costs(points):
            memory = " | ".join(_number(cost.redis_gb(rate, hours)) for hours in OUTAGE_HOURS)
            share = cost.redis_share(rate)
            thread = f"{share:.0%}" if share <= USED_SHARE else f"**{share:.0%}: more than one Redis**"
            yield f"| {rate:,} | {cost.name} | {_number(cost.cores(rate))} | {thread} | {memory} |"


def ends(points: list[Point]) -> Iterator[str]:
    """The rates at which one Redis is at its limit, as Markdown."""
    for cost in costs(points):
        yield (
            f"- {cost.name}: {cost.redis_microseconds:.3g} µs of Redis a change, so one Redis ends at about"
            f" {_rounded(cost.most_changes):,.0f} changes a second ({USED_SHARE:.0%} of its thread), which"
            f" need {_number(cost.cores(cost.most_changes))} cores for workers."
        )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"  # noqa: PLR2004


def _rounded(value: float) -> float:
    """With two significant digits."""
    return float(f"{value:.2g}")

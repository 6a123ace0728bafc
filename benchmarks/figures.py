"""The result of a scenario: a figure beside what it is compared with, and the target. Pure."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class NotMeasured(Exception):
    """A run came to nothing that a figure could be made of. Says what to change."""


class Target(NamedTuple):
    """The target of a ratio; where there is no ratio, of the measured figure itself."""

    relation: str
    """`at least` or `at most`."""
    bound: float

    def is_met(self, value: float) -> bool:
        return value >= self.bound if self.relation == "at least" else value <= self.bound

    def __str__(self) -> str:
        return f"{self.relation} {self.bound:g}"


def at_least(bound: float) -> Target:
    return Target("at least", bound)


def at_most(bound: float) -> Target:
    return Target("at most", bound)


@dataclass(frozen=True)
class Figure:
    """A line of the table."""

    what: str
    unit: str
    measured: float
    baseline: float | None = None
    """The same without the disturbance, or what is allowed."""
    ratio: float | None = None
    target: Target | None = None
    goal: Target | None = None
    """A target beyond that, which is aimed at."""
    note: str = ""

    @property
    def compared_value(self) -> float:
        """The value that has a target."""
        return self.measured if self.ratio is None else self.ratio

    @property
    def is_met(self) -> bool | None:
        """None where there is no target."""
        return None if self.target is None else self.target.is_met(self.compared_value)

    @property
    def reaches_goal(self) -> bool:
        """Whether there is a goal, and it is met."""
        return self.goal is not None and self.goal.is_met(self.compared_value)

    def with_targets(self, floor: Target, goal: Target) -> "Figure":
        """The same with a target that must be met, and one that is aimed at."""
        return replace(self, target=floor, goal=goal)

    def with_note(self, text: str) -> "Figure":
        """The same with this before what its note says."""
        return replace(self, note="; ".join(filter(None, (text, self.note))))

    def as_dict(self, scenario: str) -> dict[str, Any]:
        """For JSON, with the scenario's name."""
        targets = {"target": self.target and str(self.target), "goal": self.goal and str(self.goal)}
        content = {"scenario": scenario, **asdict(self), **targets}
        rounded = {
            name: round(value, 4) if isinstance(value, float) else value for name, value in content.items()
        }
        return {**rounded, "met": self.is_met, "reaches_goal": self.reaches_goal}


def compared(what: str, unit: str, baseline: float, measured: float, target: Target | None = None) -> Figure:
    """A figure beside another. Raises `NotMeasured` where that is nothing."""
    if not baseline:
        raise NotMeasured(f"{what}: nothing was measured to compare with")
    return Figure(what, unit, measured, baseline, measured / baseline, target)


def in_pairs(runs: int, alone: Callable[[], T], disturbed: Callable[[], T]) -> list[tuple[T, T]]:
    """Both, alternately and each as often first, so that a slow moment of the machine falls on both alike."""
    pairs: list[tuple[T, T]] = []
    for number in range(runs):
        if number % 2:
            later = disturbed()
            pairs.append((alone(), later))
        else:
            pairs.append((alone(), disturbed()))
    return pairs


def of_pairs(
    what: str, unit: str, pairs: Sequence[tuple[float, float]], target: Target | None = None
) -> Figure:
    """The medians of what was measured in pairs, and the median of the pairs' ratios."""
    if not all(baseline for baseline, _ in pairs):
        raise NotMeasured(f"{what}: a run without the disturbance measured nothing")
    ratios = [measured / baseline for baseline, measured in pairs]
    return Figure(
        what,
        unit,
        measured=median(measured for _, measured in pairs),
        baseline=median(baseline for baseline, _ in pairs),
        ratio=median(ratios),
        target=target,
        note="ratios of the pairs: " + ", ".join(f"{ratio:.2f}" for ratio in ratios),
    )


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that this share of them does not exceed."""
    ordered = sorted(values)
    if not ordered:
        raise NotMeasured("no message was measured; try more --seconds")
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def latency_figures(
    what: str, pairs: Sequence[tuple[Sequence[float], Sequence[float]]], target: Target
) -> Iterator[Figure]:
    """The 99th percentile, which has the target, and the median of seconds, in pairs of runs."""
    for share, name, bound in ((0.99, "99th percentile", target), (0.5, "median", None)):
        shares = [(percentile(alone, share), percentile(beside, share)) for alone, beside in pairs]
        yield of_pairs(f"{what}, {name}", "s", shares, bound)


def worst_window(amounts: Sequence[tuple[float, float]], seconds: float) -> float:
    """The most that fell into any span of so many seconds. `amounts` are (moment, amount)."""
    ordered = sorted(amounts)
    worst = total = 0.0
    first = 0
    for moment, amount in ordered:
        total += amount
        while ordered[first][0] <= moment - seconds:
            total -= ordered[first][1]
            first += 1
        worst = max(worst, total)
    return worst


def in_three_digits(value: float | None) -> str:
    """A number in three digits, or in more before its point; nothing where there is none."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004

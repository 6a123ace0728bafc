"""`docs/performance.md`: its generated parts between markers, and its plots. Pure but for `write`."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.figures import in_three_digits
from benchmarks.growth.plot import Line, Panel, draw
from benchmarks.growth.settings import AXES, Axis, Point
from benchmarks.growth.sizing import ends, table
from devstack.processes import ROOT

DOCUMENT = ROOT / "docs" / "performance.md"
PLOTS = ROOT / "docs" / "images"
RESULTS = ROOT / "docs" / "performance"
"""Holds what the benchmarks printed: `throughput.jsonl` and `growth.jsonl`."""
PART = "<!-- {name} -->\n"
END = "<!-- end -->\n"


def write() -> None:
    """Write the document's generated parts and its plots anew, from the results that are stored."""
    throughput, growth = (_lines(RESULTS / f"{name}.jsonl") for name in ("throughput", "growth"))
    points = [Point(**line) for line in growth if "axis" in line]
    for axis in AXES:
        (PLOTS / plot_name(axis)).write_text(plot(axis, points), "utf-8")
    parts = {
        "targets": [_machine(throughput), "", *targets(throughput)],
        "growth": [_machine(growth), "", *plots(points)],
        "sizing": list(table(points)),
        "ends": list(ends(points)),
    }
    DOCUMENT.write_text(filled(DOCUMENT.read_text("utf-8"), parts), "utf-8")


def filled(text: str, parts: Mapping[str, list[str]]) -> str:
    """The text with what stands between the markers of each part replaced."""
    for name, lines in parts.items():
        content = "\n".join(lines).strip("\n")
        start = PART.format(name=name)
        pattern = re.compile(re.escape(start) + ".*?" + re.escape(END), re.DOTALL)
        text, found = pattern.subn(lambda _, new=f"{start}{content}\n{END}": new, text)  # type: ignore[misc]
        if not found:
            raise ValueError(f"the document has no part {name!r}")
    return text


def targets(lines: list[dict[str, Any]]) -> Iterator[str]:
    """A row for each figure of `python -m benchmarks throughput`, as Markdown."""
    yield "| figure | unit | beside | measured | ratio | floor | goal | |"
    yield "|---|---|---|---|---|---|---|---|"
    for line in lines:
        if "scenario" not in line:
            continue
        met = "goal" if line["reaches_goal"] else {True: "floor", False: "**missed**", None: ""}[line["met"]]
        numbers = " | ".join(in_three_digits(line[name]) for name in ("baseline", "measured", "ratio"))
        goals = " | ".join(line[name] or "" for name in ("target", "goal"))
        yield f"| {line['what']} | {line['unit']} | {numbers} | {goals} | {met} |"


def plots(points: list[Point]) -> Iterator[str]:
    """An image for each axis, and its figures as a table."""
    for axis in AXES:
        yield f"![{axis.label}](images/{plot_name(axis)})"
        yield ""
        yield f"| {axis.label} | records/s | CPU of workers, µs a record | CPU of Redis, µs | Redis, bytes |"
        yield "|---|---|---|---|---|"
        for point in _of(axis, points):
            yield (
                f"| {point.value:,} | {point.records_per_second:,.0f}"
                f" | {in_three_digits(point.cpu_microseconds)} | {in_three_digits(point.redis_microseconds)}"
                f" | {point.redis_bytes:,.0f} |"
            )
        yield ""


def plot(axis: Axis, points: list[Point]) -> str:
    """Three panels: pace, CPU, and what waits in Redis."""
    found = _of(axis, points)
    return draw(
        axis.label,
        [point.value for point in found],
        [
            Panel("records a second", [Line("records/s", [point.records_per_second for point in found])]),
            Panel(
                "CPU of a record, µs",
                [
                    Line("workers", [point.cpu_microseconds for point in found]),
                    Line("Redis", [point.redis_microseconds for point in found]),
                ],
            ),
            Panel(
                "Redis, bytes of a waiting record", [Line("bytes", [point.redis_bytes for point in found])]
            ),
        ],
    )


def plot_name(axis: Axis) -> str:
    """The file of an axis's plot."""
    return f"performance-{axis.name.replace('_', '-')}.svg"


def _of(axis: Axis, points: list[Point]) -> list[Point]:
    return [point for point in points if point.axis == axis.name]


def _machine(lines: list[dict[str, Any]]) -> str:
    """The machine, and of how many rounds the figures are the medians."""
    first = next(line for line in lines if "machine" in line)
    rounds = first.get("rounds", 1)
    return f"{first['machine']}. {rounds} round{'s' * (rounds > 1)} of each."


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]

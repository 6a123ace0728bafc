"""`python -m benchmarks flow`: one figure or more for each scenario, and whether its target is met."""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psutil
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from benchmarks.flow import circuit_breakers, fairness, isolation, memory, quota, scale, streams
from benchmarks.flow.bench import Bench
from benchmarks.flow.figures import Figure, NotMeasured
from benchmarks.flow.scenario import Scenario
from benchmarks.stack import Late, running
from devstack.interruption import Interruptions
from devstack.processes import StartError
from worker.errors import AudienceFirehoseError

SCENARIOS: list[Scenario] = [
    scenario
    for module in (isolation, memory, circuit_breakers, quota, fairness, streams, scale)
    for scenario in module.SCENARIOS
]
FAILURES = (
    NotMeasured,
    Late,
    StartError,
    AudienceFirehoseError,
    RedisError,
    OperationalError,
    psutil.Error,
    OSError,
)
"""Errors that end a scenario and let the others run."""

Results = list[tuple[Scenario, Figure]]


def main(given: list[str], interruptions: Interruptions) -> int:
    """Run the scenarios that are asked for. 0 where all were measured, whether or not targets are met."""
    arguments = _arguments(given)
    if arguments.list:
        width = max(len(scenario.name) for scenario in SCENARIOS)
        print(*(f"{scenario.name:{width}}  {scenario.about}" for scenario in SCENARIOS), sep="\n")
        return 0
    results: Results = []
    failed = False
    try:
        for scenario in chosen(arguments.names):
            failed |= not _run(scenario, arguments, interruptions, results)
    finally:
        if not arguments.json and results:
            print(*_table(results), sep="\n", flush=True)
    return int(failed)


def chosen(names: Sequence[str]) -> list[Scenario]:
    """The scenarios of these names; `isolation` stands for all that begin with `isolation-`."""
    return [
        scenario
        for scenario in SCENARIOS
        if not names or any(scenario.name == name or scenario.name.startswith(f"{name}-") for name in names)
    ]


def _run(
    scenario: Scenario, arguments: argparse.Namespace, interruptions: Interruptions, results: Results
) -> bool:
    """Run one on servers of its own, and say what it found. False where it came to nothing."""
    print(f"{scenario.name}: {scenario.about}", file=sys.stderr, flush=True)
    try:
        with tempfile.TemporaryDirectory() as directory, running(Path(directory), interruptions) as stack:
            bench = Bench(stack, arguments.seconds, arguments.concurrency, arguments.pairs)
            for figure in scenario.run(bench):
                results.append((scenario, figure))
                if arguments.json:
                    print(json.dumps(figure.as_dict(scenario.name)), flush=True)
    except FAILURES as error:
        print(f"{scenario.name}: not measured: {error}", file=sys.stderr, flush=True)
        return False
    return True


def _arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks flow", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="a scenario, or what several begin with: `isolation` (default: all)",
    )
    parser.add_argument("--list", action="store_true", help="say which scenarios there are")
    parser.add_argument("--json", action="store_true", help="one JSON object a figure")
    parser.add_argument("--seconds", type=_seconds, help="how long a run lasts (default: the scenario's)")
    parser.add_argument("--concurrency", type=_count, help="pool processes (default: the scenario's)")
    parser.add_argument(
        "--pairs", type=_count, default=3, help="runs with and without a disturbance (default: %(default)s)"
    )
    arguments = parser.parse_args(given)
    if unknown := [name for name in arguments.names if not chosen([name])]:
        parser.error(f"no such scenario: {', '.join(unknown)}; see --list")
    return arguments


def _seconds(text: str) -> float:
    if not text.replace(".", "", 1).isdecimal() or not float(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return float(text)


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _table(results: Results) -> list[str]:
    head = ("scenario", "figure", "unit", "baseline", "measured", "ratio", "target", "met")
    rows = [head, *(_row(scenario, figure) for scenario, figure in results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        words = [f"{cell:<{width}}" for cell, width in zip(row[:3], widths[:3], strict=True)]
        numbers = [f"{cell:>{width}}" for cell, width in zip(row[3:6], widths[3:6], strict=True)]
        ends = [f"{cell:<{width}}" for cell, width in zip(row[6:], widths[6:], strict=True)]
        lines.append("  ".join([*words, *numbers, *ends]).rstrip())
    notes = dict.fromkeys(
        f"{scenario.name}, {figure.what}: {figure.note}" for scenario, figure in results if figure.note
    )
    return [*lines, "", *notes]


def _row(scenario: Scenario, figure: Figure) -> tuple[str, ...]:
    met = {None: "", True: "yes", False: "NO"}[figure.is_met]
    target = "" if figure.target is None else str(figure.target)
    numbers = [_number(value) for value in (figure.baseline, figure.measured, figure.ratio)]
    return scenario.name, figure.what, figure.unit, *numbers, target, met


def _number(value: float | None) -> str:
    """Three digits or more."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004

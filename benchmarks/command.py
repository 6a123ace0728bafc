"""The command of a set of scenarios: figures of each, beside their targets."""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from benchmarks.bench import Bench
from benchmarks.figures import Figure, NotMeasured, in_three_digits
from benchmarks.machine import describe_machine
from benchmarks.scenario import Scenario
from benchmarks.stack import Late, running
from devstack.interruption import Interruptions
from devstack.processes import StartError
from worker.errors import AudienceFirehoseError

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


@dataclass(frozen=True)
class Command:
    """`python -m benchmarks NAME`."""

    name: str
    about: str
    scenarios: Sequence[Scenario]

    def run(self, given: list[str], interruptions: Interruptions) -> int:
        """Run the scenarios that are asked for. 0 where all were measured, whether or not targets are met."""
        arguments = self._arguments(given)
        if arguments.list:
            width = max(len(scenario.name) for scenario in self.scenarios)
            print(*(f"{scenario.name:{width}}  {scenario.about}" for scenario in self.scenarios), sep="\n")
            return 0
        results: Results = []
        failed = False
        if arguments.json:
            print(json.dumps({"machine": describe_machine(), "rounds": arguments.pairs}), flush=True)
        try:
            for scenario in self._chosen(arguments.names):
                failed |= not _run(scenario, arguments, interruptions, results)
        finally:
            if not arguments.json and results:
                print(describe_machine(), "", *_table(results), sep="\n", flush=True)
        return int(failed)

    def _chosen(self, names: Sequence[str]) -> list[Scenario]:
        """The scenarios of these names; `isolation` stands for all that begin with `isolation-`."""
        return [
            scenario
            for scenario in self.scenarios
            if not names
            or any(scenario.name == name or scenario.name.startswith(f"{name}-") for name in names)
        ]

    def _arguments(self, given: list[str]) -> argparse.Namespace:
        parser = argparse.ArgumentParser(prog=f"python -m benchmarks {self.name}", description=self.about)
        parser.add_argument(
            "names",
            nargs="*",
            metavar="NAME",
            help="a scenario, or what several begin with: `isolation` for `isolation-…` (default: all)",
        )
        parser.add_argument("--list", action="store_true", help="say which scenarios there are")
        parser.add_argument("--json", action="store_true", help="one JSON object a figure")
        parser.add_argument("--seconds", type=_seconds, help="how long a run lasts (default: the scenario's)")
        parser.add_argument("--concurrency", type=_count, help="pool processes (default: the scenario's)")
        parser.add_argument("--records", type=_count, help="where a scenario counts (default: its own)")
        parser.add_argument(
            "--pairs", type=_count, default=3, help="interleaved runs of what is compared (default: 3)"
        )
        arguments = parser.parse_args(given)
        if unknown := [name for name in arguments.names if not self._chosen([name])]:
            parser.error(f"no such scenario: {', '.join(unknown)}; see --list")
        return arguments


def _run(
    scenario: Scenario, arguments: argparse.Namespace, interruptions: Interruptions, results: Results
) -> bool:
    """Run one on servers of its own, and print its figures. False where it measured nothing."""
    print(f"{scenario.name}: {scenario.about}", file=sys.stderr, flush=True)
    try:
        with tempfile.TemporaryDirectory() as directory, running(Path(directory), interruptions) as stack:
            options = (arguments.seconds, arguments.concurrency, arguments.records, arguments.pairs)
            for figure in scenario.run(Bench(stack, *options)):
                results.append((scenario, figure))
                if arguments.json:
                    print(json.dumps(figure.as_dict(scenario.name)), flush=True)
    except FAILURES as error:
        print(f"{scenario.name}: not measured: {error}", file=sys.stderr, flush=True)
        return False
    return True


def _seconds(text: str) -> float:
    if not text.replace(".", "", 1).isdecimal() or not float(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return float(text)


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


HEAD = ("scenario", "figure", "unit", "baseline", "measured", "ratio", "target", "goal", "met")
TEXT_COLUMNS = 3
NUMBER_COLUMNS = 6


def _table(results: Results) -> list[str]:
    rows = [HEAD, *(_row(scenario, figure) for scenario, figure in results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            f"{cell:>{width}}" if TEXT_COLUMNS <= column < NUMBER_COLUMNS else f"{cell:<{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    notes = dict.fromkeys(
        f"{scenario.name}, {figure.what}: {figure.note}" for scenario, figure in results if figure.note
    )
    return [*lines, "", *notes]


def _row(scenario: Scenario, figure: Figure) -> tuple[str, ...]:
    met = "goal" if figure.reaches_goal else {None: "", True: "yes", False: "NO"}[figure.is_met]
    targets = ["" if target is None else str(target) for target in (figure.target, figure.goal)]
    numbers = [in_three_digits(value) for value in (figure.baseline, figure.measured, figure.ratio)]
    return scenario.name, figure.what, figure.unit, *numbers, *targets, met

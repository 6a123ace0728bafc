"""`make bench`: a table, or with `--json` one object a contender.

`throughput`, `flow` and `dashboard` measure other figures, each scenario of which `--list` names; `growth`
measures how the costs grow.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks import dashboard, flow, throughput
from benchmarks.bench import Bench
from benchmarks.contenders import CONTENDERS, PLAIN_SINGLES, Comparison, Contender, compare
from benchmarks.growth.command import main as measure_growth
from benchmarks.machine import describe_machine
from benchmarks.stack import Late, running
from devstack.interruption import Interruption, Interruptions
from devstack.processes import StartError

SIGNALLED = 128
"""A shell adds this to a signal's number to make an exit status."""
COMMANDS: dict[str, Callable[[list[str], Interruptions], int]] = {
    "throughput": throughput.COMMAND.run,
    "flow": flow.COMMAND.run,
    "dashboard": dashboard.COMMAND.run,
    "growth": measure_growth,
}


def main(arguments: list[str]) -> int:
    """Run what is asked for; the exit status. A signal ends whatever was started, by its process ID."""
    with Interruptions() as interruptions:
        try:
            if arguments and (command := COMMANDS.get(arguments[0])):
                return command(arguments[1:], interruptions)
            return run_contenders(_arguments(arguments), interruptions)
        except Interruption:
            return SIGNALLED + (interruptions.signal or 0)
        except (StartError, Late) as error:
            print(error, file=sys.stderr)
            return 1


def run_contenders(arguments: argparse.Namespace, interruptions: Interruptions) -> int:
    """Run every contender as often as is asked for, and print the medians."""
    with tempfile.TemporaryDirectory() as directory, running(Path(directory), interruptions) as stack:
        comparison = compare(Bench(stack, arguments.seconds, arguments.concurrency, None, arguments.pairs))
    print(*(_json_lines if arguments.json else _table)(comparison), sep="\n")
    return 0


def _arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a run, about (default: %(default)s)")
    parser.add_argument("--concurrency", type=int, default=2, help="pool processes (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=1, help="runs of each, in turn (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser.parse_args(given)


def _figures(comparison: Comparison, contender: Contender) -> dict[str, float]:
    """The medians of a contender's runs."""
    runs = comparison.runs(contender)
    return {
        "records": median(run.records for run in runs),
        "wall_seconds": median(run.wall_seconds for run in runs),
        "cpu_seconds": median(run.cpu_seconds for run in runs),
        "records_per_second": median(run.records_per_second for run in runs),
        "records_per_cpu_second": median(run.records_per_cpu_second for run in runs),
        "redis_microseconds": median(run.redis_microseconds_per_record for run in runs),
        "ratio": comparison.ratio(contender, PLAIN_SINGLES),
    }


def _table(comparison: Comparison) -> list[str]:
    width = max(len(contender.name) for contender in CONTENDERS)
    rows = [
        describe_machine(),
        "",
        f"{'':{width}}  {'records/s':>10}  {'records/CPU s':>13}  {'Redis µs':>8}  {'ratio':>6}",
    ]
    for contender in CONTENDERS:
        found = _figures(comparison, contender)
        rows.append(
            f"{contender.name:{width}}  {found['records_per_second']:>10,.0f}"
            f"  {found['records_per_cpu_second']:>13,.0f}  {found['redis_microseconds']:>8,.1f}"
            f"  {found['ratio']:>6.1f}"
        )
    return [
        *rows,
        "records/CPU s: of the workers with their pools; Redis µs: Redis's CPU for a record",
        "ratio: records a CPU second, against a plain Celery task a change",
    ]


def _json_lines(comparison: Comparison) -> list[str]:
    machine = describe_machine()
    return [
        json.dumps(
            {
                "name": contender.name,
                **{name: round(value, 3) for name, value in _figures(comparison, contender).items()},
                "runs": len(comparison.runs(contender)),
                "machine": machine,
            }
        )
        for contender in CONTENDERS
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

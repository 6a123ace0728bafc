"""`make bench`: a table, or with `--json` one object a contender. `flow` measures flow control instead."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.changes import BATCH
from benchmarks.contenders import CONTENDERS, Result, bench
from benchmarks.flow.command import main as measure_flow
from benchmarks.stack import Late
from devstack.interruption import Interruption, Interruptions
from devstack.processes import StartError

SIGNALLED = 128
"""A shell adds this to a signal's number to make an exit status."""


def main(arguments: list[str]) -> int:
    """Run what is asked for; the exit status. A signal ends whatever was started, by its process ID."""
    with Interruptions() as interruptions:
        try:
            if arguments[:1] == ["flow"]:
                return measure_flow(arguments[1:], interruptions)
            return compare(_arguments(arguments), interruptions)
        except Interruption:
            return SIGNALLED + (interruptions.signal or 0)
        except (StartError, Late) as error:
            print(error, file=sys.stderr)
            return 1


def compare(arguments: argparse.Namespace, interruptions: Interruptions) -> int:
    """Run every contender once and print what they did."""
    results: list[Result] = []
    with (
        tempfile.TemporaryDirectory() as directory,
        bench(Path(directory), arguments.concurrency, interruptions) as running,
    ):
        for contender in CONTENDERS:
            records = max(round(arguments.records * contender.share / BATCH), 1) * BATCH
            print(f"{contender.name}: {records:,} records …", file=sys.stderr, flush=True)
            results.append(running.run(contender, records))
    print(*(_json_lines if arguments.json else _table)(results), sep="\n")
    return 0


def _arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--records", type=int, default=100_000, help="for the fast ones (default: %(default)s)"
    )
    parser.add_argument("--concurrency", type=int, default=2, help="pool processes (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser.parse_args(given)


def _ratio(result: Result, results: list[Result]) -> float:
    """Records a CPU second, against a plain Celery task a change."""
    plain = next(other for other in results if "a task a change" in other.name)
    return result.records_per_cpu_second / plain.records_per_cpu_second


def _table(results: list[Result]) -> list[str]:
    width = max(len(result.name) for result in results)
    rows = [f"{'':{width}}  {'records':>9}  {'records/s':>10}  {'records/CPU s':>13}  {'ratio':>6}"]
    rows += [
        f"{result.name:{width}}  {result.records:>9,}  {result.records_per_second:>10,.0f}"
        f"  {result.records_per_cpu_second:>13,.0f}  {_ratio(result, results):>6.1f}"
        for result in results
    ]
    return [*rows, "ratio: records a CPU second, against a plain Celery task a change"]


def _json_lines(results: list[Result]) -> list[str]:
    return [
        json.dumps(
            {
                "name": result.name,
                "records": result.records,
                "wall_seconds": round(result.wall_seconds, 3),
                "cpu_seconds": round(result.cpu_seconds, 3),
                "records_per_second": round(result.records_per_second, 1),
                "records_per_cpu_second": round(result.records_per_cpu_second, 1),
                "ratio": round(_ratio(result, results), 2),
            }
        )
        for result in results
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`python -m benchmarks growth`: a run at each point of each axis; and the document that shows them."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.command import FAILURES
from benchmarks.growth.document import write
from benchmarks.growth.measuring import measure
from benchmarks.growth.settings import AXES, Axis, Point, Setting
from benchmarks.machine import describe_machine
from benchmarks.stack import running
from devstack.interruption import Interruptions


def main(given: list[str], interruptions: Interruptions) -> int:
    """Measure, or write the document. 0 where all points were measured."""
    arguments = _arguments(given)
    if arguments.write:
        write()
        return 0
    if arguments.json:
        print(json.dumps({"machine": describe_machine()}), flush=True)
    chosen = [axis for axis in AXES if axis.name in (arguments.axes or [axis.name])]
    failed = False
    for axis in chosen:
        if not arguments.json:
            print(f"{axis.label:>32}  {'records/s':>10}  {'CPU µs':>8}  {'Redis µs':>8}  {'bytes':>8}")
        for setting in axis.settings():
            point = _measure(axis, setting, arguments.seconds, interruptions)
            failed |= point is None
            if point:
                print(json.dumps(point.as_dict()) if arguments.json else _row(point), flush=True)
    return int(failed)


def _measure(
    axis: Axis, setting: Setting, seconds: float | None, interruptions: Interruptions
) -> Point | None:
    """Measure a point on servers of its own; None where it could not be measured."""
    try:
        with tempfile.TemporaryDirectory() as directory, running(Path(directory), interruptions) as stack:
            return measure(Bench(stack, seconds, None, None, 1), axis, setting)
    except FAILURES as error:
        print(f"{axis.name}, {setting}: not measured: {error}", file=sys.stderr, flush=True)
        return None


def _row(point: Point) -> str:
    return (
        f"{point.value:>32,}  {point.records_per_second:>10,.0f}  {point.cpu_microseconds:>8.1f}"
        f"  {point.redis_microseconds:>8.2f}  {point.redis_bytes:>8,.0f}"
    )


def _arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks growth", description=__doc__)
    names = [axis.name for axis in AXES]
    parser.add_argument("axes", nargs="*", metavar="AXIS", help=f"of {', '.join(names)} (default: all)")
    parser.add_argument("--json", action="store_true", help="one JSON object a point")
    parser.add_argument("--seconds", type=float, help="how long a run lasts, about (default: 3)")
    parser.add_argument(
        "--write", action="store_true", help="measure nothing: write docs/performance.md from stored results"
    )
    arguments = parser.parse_args(given)
    if unknown := [name for name in arguments.axes if name not in names]:
        parser.error(f"no such axis: {', '.join(unknown)}; there are {', '.join(names)}")
    return arguments

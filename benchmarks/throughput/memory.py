"""The most memory that a worker's processes take: over many records, and for a bundle of large messages."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from benchmarks.bench import Bench
from benchmarks.changes import AUDIENCE, BATCH
from benchmarks.contenders import CONCURRENCY
from benchmarks.figures import Figure, at_most
from benchmarks.messages import Load
from benchmarks.plain import STREAM
from benchmarks.runs import forward, warm
from benchmarks.scenario import Scenario
from benchmarks.stack import members_of

RECORDS = 500_000
WAVE = 50_000
"""Records that wait at a time."""
LARGE_BYTES = 950_000
"""Bytes of a large record: Firehose takes 1,024,000."""
LARGE_CHANGES = 8
LARGE_MESSAGES = 30
MOST_MIB = 200
MIB = 2**20
CLEAR_PEAK = "5"
"""Written to `clear_refs` of a process, it sets its peak of memory to what it has: proc(5)."""


def growth(bench: Bench) -> Iterator[Figure]:
    """Peaks while many records pass, in bulk and singly, in the second half of them beside the first."""
    for load, records in ((Load(BATCH), bench.records(RECORDS)), (Load(), bench.records(RECORDS) // 10)):
        yield from _grown(bench, load, records)


def _grown(bench: Bench, load: Load, records: int) -> Iterator[Figure]:
    bench.connect_audience(AUDIENCE, STREAM)
    wave = min(WAVE, records // 4) // load.changes_per_message
    waves = max(records // load.changes_per_message // wave, 4)
    peaks = []
    with bench.stack.workers(1, bench.concurrency(CONCURRENCY)) as workers:
        warm(bench.stack, workers, load)
        members = members_of(workers)
        for half in ("first", "second"):
            _clear_peaks(members)
            for number in range(waves // 2):
                bench.say(f"{half} half, {number + 1} of {waves // 2}")
                forward(bench.stack, workers, load, wave)
            peaks.append(_peak(members))
    what = f"peak of a process, {waves * wave * load.changes_per_message:,} records,"
    what += f" {load.changes_per_message} a message"
    yield Figure(what, "MiB", max(peaks) / MIB).with_targets(at_most(MOST_MIB), at_most(MOST_MIB))
    yield Figure(
        "the same, second half", "MiB", peaks[1] / MIB, peaks[0] / MIB, peaks[1] / peaks[0]
    ).with_targets(at_most(1.1), at_most(1.02))


def bundle(bench: Bench) -> Iterator[Figure]:
    """Peaks while large messages wait, as many as would make a run if only their number counted."""
    bench.connect_audience(AUDIENCE, STREAM)
    load = Load(LARGE_CHANGES, filler_bytes=LARGE_BYTES)
    with bench.stack.workers(1, bench.concurrency(CONCURRENCY)) as workers:
        warm(bench.stack, workers, Load())
        members = members_of(workers)
        _clear_peaks(members)
        bench.say(f"{LARGE_MESSAGES} messages of {LARGE_CHANGES} records of {LARGE_BYTES:,} bytes")
        forward(bench.stack, workers, load, LARGE_MESSAGES)
        peak = _peak(members)
    figure = Figure(f"peak of a process, {LARGE_MESSAGES} messages of 8 MB", "MiB", peak / MIB)
    yield figure.with_targets(at_most(MOST_MIB), at_most(MOST_MIB))


def _clear_peaks(members: Sequence[psutil.Process]) -> None:
    for member in members:
        Path(f"/proc/{member.pid}/clear_refs").write_text(CLEAR_PEAK, "ascii")


def _peak(members: Sequence[psutil.Process]) -> int:
    """The most bytes that one of these processes had resident since its peak was cleared."""
    return max(_high_water_mark(member) for member in members)


def _high_water_mark(process: psutil.Process) -> int:
    for line in Path(f"/proc/{process.pid}/status").read_text("utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise psutil.ZombieProcess(process.pid)


SCENARIOS = [
    Scenario("memory", "peak memory of a process while many records pass (--records 10000000)", growth),
    Scenario("large-messages", "peak memory of a process for a bundle of the largest messages", bundle),
]

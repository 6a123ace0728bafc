"""The cost of many streams."""

from collections.abc import Iterator
from statistics import median

from benchmarks.backlog import Template
from benchmarks.bench import Bench, as_many_as_go
from benchmarks.figures import Figure, at_least, compared
from benchmarks.scenario import Scenario
from worker.queues import Stream

CONCURRENCY = 8
COUNTS = (1, 100, 1_000)
RECORDS = 10
KEPT = at_least(0.8)


def streams(bench: Bench) -> Iterator[Figure]:
    """Throughput of the same batches, spread over 1, 100 and 1,000 streams."""
    batches = {count: _batches(bench, count) for count in COUNTS}
    rates: dict[int, list[float]] = {count: [] for count in COUNTS}
    for number in range(bench.pairs):
        for count in COUNTS if number % 2 == 0 else reversed(COUNTS):
            bench.say(f"{count:,} streams, run {number + 1} of {bench.pairs}")
            rates[count].append(_rate(bench, count, batches[count]))
    one = median(rates[1])
    for count in COUNTS[1:]:
        figure = compared(f"throughput, {count:,} streams", "records/s", one, median(rates[count]), KEPT)
        yield figure.with_note("runs: " + ", ".join(f"{rate:,.0f}" for rate in rates[count]))


def _batches(bench: Bench, count: int) -> dict[Stream, Template]:
    bench.say(f"making the batches of {count:,} streams")
    bench.reset()
    bench.connect_many(count)
    bench.connect_warm()
    return bench.batches(RECORDS)


def _rate(bench: Bench, count: int, batches: dict[Stream, Template]) -> float:
    """Records a second, with this many streams registered and each with as much to send."""
    bench.reset()
    measured, seconds = bench.connect_many(count), bench.seconds(10)
    bench.connect_warm()
    bench.delay({stream: batches[stream] for stream in measured}, as_many_as_go(seconds, RECORDS) // count)
    with bench.warm_workers(batches, concurrency=bench.concurrency(CONCURRENCY)):
        return bench.rate(measured, bench.release(*measured), seconds)


SCENARIOS = [Scenario("streams", "throughput with 1, 100 and 1,000 registered streams", streams)]

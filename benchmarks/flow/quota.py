"""Whether a stream's quota is kept, and used, by several workers together."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_least, at_most, compared, worst_window
from benchmarks.firehose import Call
from benchmarks.scenario import Scenario

CONCURRENCY = 2
WORKER_COUNTS = (1, 2, 4)
"""Workers."""
WINDOW_SECONDS = 5.0
"""Seconds."""
KEPT = at_most(1.05)
USED = at_least(0.9)
SURPLUS = 4
"""Times the quota that waits to be sent."""


@dataclass(frozen=True)
class Bound:
    """A quota of one kind."""

    kind: str
    text: str
    """As operators write it."""
    a_second: float
    amount: Callable[[Call], float]
    """The part of the quota that a call takes."""
    records: int
    """The number of records in a batch."""
    batches: float
    """A second, about; no more than the quota allows."""


BOUNDS = [
    Bound("bytes", "256KiB/s", 256 * 2**10, lambda call: call.bytes, records=20, batches=60),
    Bound("requests", "50requests/s", 50, lambda call: 1, records=10, batches=50),
    Bound("records", "5000records/s", 5_000, lambda call: call.records, records=100, batches=50),
]


def quota(bound: Bound, bench: Bench) -> Iterator[Figure]:
    """The worst five seconds and the mean, of one, two and four workers."""
    stream, seconds = bench.connect("a", stream_quota=bound.text), bench.seconds(20)
    bench.connect_warm()
    templates = bench.batches(bound.records)
    for workers in WORKER_COUNTS:
        bench.say(f"{bound.text}, {workers} worker{'s' * (workers > 1)}")
        bench.stack.broker.delete(stream.queue)
        bench.delay({stream: templates[stream]}, round((seconds + WINDOW_SECONDS) * bound.batches * SURPLUS))
        with bench.warm_workers(templates, workers, concurrency=bench.concurrency(CONCURRENCY)):
            start = bench.release(stream)
            time.sleep(seconds)
            calls = [call for call in bench.stack.firehose.calls() if call.stream == stream.name]
            bench.check_backlog([stream])
        yield from _figures(bound, workers, calls, start, seconds)


def _figures(bound: Bound, workers: int, calls: list[Call], start: float, seconds: float) -> Iterator[Figure]:
    amounts = [(call.moment - start, bound.amount(call)) for call in calls]
    size = f"{workers} worker{'s' * (workers > 1)}"
    window = min(WINDOW_SECONDS, seconds)
    worst = worst_window(amounts, window) / window
    mean = sum(amount for _, amount in amounts) / seconds
    unit = f"{bound.kind}/s"
    yield compared(f"worst {window:g} s, {size}", unit, bound.a_second, worst, KEPT)
    yield compared(f"mean, {size}", unit, bound.a_second, mean, USED)


SCENARIOS = [
    Scenario(f"quota-{bound.kind}", f"a quota of {bound.text} with 1, 2 and 4 workers", partial(quota, bound))
    for bound in BOUNDS
]

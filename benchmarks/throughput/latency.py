"""The time from `send_task` to Firehose's answer, under load and alone, beside a plain task's."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from benchmarks.bench import Bench
from benchmarks.changes import AUDIENCE
from benchmarks.contenders import CONCURRENCY, PLAIN_SINGLES, SINGLES, Contender
from benchmarks.figures import Figure, at_most, in_pairs, percentile
from benchmarks.plain import STREAM
from benchmarks.runs import warm
from benchmarks.scenario import Scenario
from benchmarks.steady import Due, alone, evenly, latencies

STEADY_RATE = 500
"""Changes a second."""
STEADY_SECONDS = 15.0
SKIPPED_SECONDS = 2.0
"""Seconds at the beginning that do not count."""
ALONE_GAP_SECONDS = 0.15
ALONE_MESSAGES = 60
MILLISECONDS = 1_000


class Share(NamedTuple):
    """A percentile of the latencies, with its targets in milliseconds."""

    name: str
    share: float
    floor: float
    goal: float


def steady(bench: Bench) -> Iterator[Figure]:
    """500 singles a second, with a pool of two."""
    schedule = evenly([AUDIENCE], STEADY_RATE, bench.seconds(STEADY_SECONDS))
    shares = [Share("median", 0.5, 20, 8), Share("99th percentile", 0.99, 60, 25)]
    yield from _figures(bench, f"{STEADY_RATE} singles/s", lambda: schedule, SKIPPED_SECONDS, shares)


def one(bench: Bench) -> Iterator[Figure]:
    """Send single changes one after another, to an idle worker."""
    yield from _figures(
        bench,
        "one change on an idle worker",
        lambda: alone(AUDIENCE, ALONE_GAP_SECONDS, bench.records(ALONE_MESSAGES)),
        0.0,
        [Share("median", 0.5, 15, 5)],
    )


def _figures(
    bench: Bench, what: str, schedule: Callable[[], list[Due]], skip: float, shares: Sequence[Share]
) -> Iterator[Figure]:
    bench.connect_audience(AUDIENCE, STREAM)
    pairs = in_pairs(
        bench.pairs,
        lambda: _latencies(bench, PLAIN_SINGLES, schedule(), skip),
        lambda: _latencies(bench, SINGLES, schedule(), skip),
    )
    for share in shares:
        plain, ours = (
            [percentile(runs, share.share) * MILLISECONDS for runs in each]
            for each in zip(*pairs, strict=True)
        )
        note = "the best of the runs, as others' work slows a run; baseline: plain Celery; runs: "
        note += ", ".join(f"{value:.1f}" for value in ours)
        figure = Figure(f"{what}, {share.name}", "ms", min(ours), min(plain), note=note)
        yield figure.with_targets(at_most(share.floor), at_most(share.goal))


def _latencies(bench: Bench, contender: Contender, schedule: Sequence[Due], skip: float) -> list[float]:
    bench.say(contender.name)
    stack = bench.stack
    with stack.workers(1, bench.concurrency(CONCURRENCY), app=contender.app) as workers:
        warm(stack, workers, contender.load)
        stack.firehose.behave({STREAM: {"keep": True}})
        stack.firehose.calls()
        found = latencies(stack, schedule, {AUDIENCE}, skip, contender.load)
        stack.firehose.behave({})
    return found


SCENARIOS = [
    Scenario("steady", "latency of 500 singles a second, with a pool of two", steady),
    Scenario("alone", "latency of one change on an idle worker", one),
]

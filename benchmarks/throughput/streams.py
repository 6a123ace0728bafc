"""The cost of many streams: of one change for ten, of thousands that are registered, of small batches."""

from collections.abc import Iterator, Sequence
from statistics import median
from time import sleep
from typing import NamedTuple

from benchmarks.bench import Bench
from benchmarks.changes import BATCH
from benchmarks.contenders import CONCURRENCY, PLAIN_SINGLES, RUN_SECONDS, run
from benchmarks.figures import Figure, Target, at_least, at_most, of_pairs
from benchmarks.messages import Load
from benchmarks.runs import MICROSECONDS, Run, forward, forward_for, redis_cpu_seconds, warm
from benchmarks.scenario import Scenario
from benchmarks.stack import Stack

FAN_OUT = 10
ONE_AUDIENCE, ALL_AUDIENCE = 1, 1_001
COUNTS = (1, 1_000, 10_000)
SMALL = 20
"""Changes a message."""
SMALL_STREAMS = 1_000
SMALL_BACKLOGS = (10, 1)
"""Messages that wait for each of these streams."""
BEFORE_TIMES_PLAIN = 10.0
"""Changes per CPU second before runs, times those of plain tasks: 7.5 to 11.4 in four pairs, 2026-11-25."""
IDLE_SECONDS = 4.0
POLL_COMMANDS = (
    "eval",
    "evalsha",
    "evalsha_ro",
    "brpop",
    "blpop",
    "blmove",
    "brpoplpush",
    "bzpopmin",
    "bzpopmax",
)
"""Commands with which a worker polls for messages."""


def fan_out(bench: Bench) -> Iterator[Figure]:
    """The CPU of a change for ten streams, and of one for one stream."""
    for number in range(FAN_OUT):
        name = f"stream-{number}"
        bench.connect_audience(ALL_AUDIENCE, name)
        if not number:
            bench.connect_audience(ONE_AUDIENCE, name)
    with bench.stack.workers(1, bench.concurrency(CONCURRENCY)) as workers:
        for changes, targets in ((1, (at_most(3), at_most(2))), (BATCH, None)):
            pairs = []
            for number in range(bench.pairs):
                bench.say(f"{changes} a message, run {number + 1} of {bench.pairs}")
                costs = [
                    _microseconds(
                        forward_for(
                            bench.stack,
                            workers,
                            Load(changes, audiences=[audience]),
                            bench.seconds(RUN_SECONDS),
                            records_per_change=records,
                        )
                    )
                    for audience, records in ((ONE_AUDIENCE, 1), (ALL_AUDIENCE, FAN_OUT))
                ]
                pairs.append((costs[0], costs[1]))
            figure = of_pairs(f"CPU of a change for {FAN_OUT} streams, {changes} a message", "µs", pairs)
            yield figure.with_targets(*targets) if targets else figure


def _microseconds(run: Run) -> float:
    return run.cpu_seconds / run.changes * MICROSECONDS


class Idle(NamedTuple):
    """Redis while a worker has nothing to do."""

    seconds: float
    """CPU seconds a second."""
    polls: float
    """Polls for messages a second."""

    @property
    def microseconds(self) -> float:
        """CPU of a poll."""
        return self.seconds / self.polls * MICROSECONDS if self.polls else 0.0


def many(bench: Bench) -> Iterator[Figure]:
    """The same load for one stream and for thousands, and a poll for messages when there are none."""
    runs: dict[int, list[Run]] = {count: [] for count in COUNTS}
    idle: dict[int, list[Idle]] = {count: [] for count in COUNTS}
    for number in range(bench.pairs):
        for count in COUNTS:
            bench.say(f"{count:,} streams, run {number + 1} of {bench.pairs}")
            bench.reset()
            audiences = [bench.streams[stream] for stream in bench.connect_many(count)]
            with bench.stack.workers(1, bench.concurrency(CONCURRENCY)) as workers:
                load = Load(BATCH, audiences)
                runs[count].append(forward_for(bench.stack, workers, load, bench.seconds(RUN_SECONDS)))
                idle[count].append(_idle(bench.stack))
    for count in COUNTS[1:]:
        yield _beside_one(
            f"500 a message to {count:,} streams",
            "changes/CPU s",
            [
                (one.changes_per_cpu_second, other.changes_per_cpu_second)
                for one, other in zip(runs[1], runs[count], strict=True)
            ],
            at_least(0.9),
            at_least(1),
        )
    for count in COUNTS[1:]:
        yield _beside_one(
            f"Redis CPU of a poll, {count:,} streams",
            "µs",
            [(one.microseconds, other.microseconds) for one, other in zip(idle[1], idle[count], strict=True)],
            at_most(1.5),
            at_most(1.1),
        ).with_note(f"{median(each.polls for each in idle[count]):.0f} polls a second")


def _beside_one(
    what: str, unit: str, pairs: Sequence[tuple[float, float]], floor: Target, goal: Target
) -> Figure:
    return of_pairs(what, unit, pairs).with_targets(floor, goal)


def _idle(stack: Stack) -> Idle:
    sleep(IDLE_SECONDS / 4)
    stack.broker.config_resetstat()
    before = redis_cpu_seconds(stack)
    sleep(IDLE_SECONDS)
    used = redis_cpu_seconds(stack) - before
    stats = stack.broker.info("commandstats")
    polls = sum(stats[f"cmdstat_{name}"]["calls"] for name in POLL_COMMANDS if f"cmdstat_{name}" in stats)
    return Idle(used / IDLE_SECONDS, polls / IDLE_SECONDS)


def small(bench: Bench) -> Iterator[Figure]:
    """20 changes a message, each message for another of a thousand streams, beside plain tasks."""
    pairs: dict[int, list[tuple[float, float]]] = {backlog: [] for backlog in SMALL_BACKLOGS}
    for number in range(bench.pairs):
        bench.say(f"run {number + 1} of {bench.pairs}")
        bench.reset()
        load = Load(SMALL, [bench.streams[stream] for stream in bench.connect_many(SMALL_STREAMS)])
        with bench.stack.workers(1, bench.concurrency(CONCURRENCY)) as workers:
            warm(bench.stack, workers, load)
            ours = {
                backlog: forward(bench.stack, workers, load, backlog * SMALL_STREAMS)
                for backlog in SMALL_BACKLOGS
            }
        plain = run(bench, PLAIN_SINGLES)
        before = plain.changes_per_cpu_second * BEFORE_TIMES_PLAIN
        for backlog, found in ours.items():
            pairs[backlog].append((before, found.changes_per_cpu_second))
    for backlog, targets in zip(SMALL_BACKLOGS, ((at_least(5), at_least(10)), None), strict=True):
        figure = of_pairs(
            f"{SMALL} a message, {backlog} waiting for each of {SMALL_STREAMS:,} streams",
            "changes/CPU s",
            pairs[backlog],
        ).with_note(f"baseline: {BEFORE_TIMES_PLAIN:g} times a plain task a change, as before runs")
        yield figure.with_targets(*targets) if targets else figure


SCENARIOS = [
    Scenario("fan-out", "one change to 10 streams beside one stream", fan_out),
    Scenario("many-streams", "1,000 and 10,000 registered streams, the same total load", many),
    Scenario("small-batches", "20 changes a message to 1,000 streams", small),
]

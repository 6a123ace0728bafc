"""Stream A is in trouble, stream B has work to do: what does B lose?"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import NamedTuple

from benchmarks.backlog import Template
from benchmarks.bench import RAMP_SECONDS, REGION, Bench, as_many_as_go, records_between
from benchmarks.figures import Figure, at_least, at_most, compared, in_pairs, latency_figures, of_pairs
from benchmarks.firehose import Conduct
from benchmarks.scenario import Scenario
from benchmarks.stack import Worker
from benchmarks.steady import evenly, latencies
from worker.flow.circuit_breakers import OPERATOR
from worker.queues import Stream

CONCURRENCY = 8
WAITING_FOR_A = 1_000
"""Batches."""
RECORDS = 100
"""A batch."""
SETTLE_SECONDS = 2.0
"""Seconds in which A's trouble begins before B is measured."""
THROUGHPUT_KEPT = at_least(0.95)
LATENCY_KEPT = at_most(2)
STEADY = 20
"""Changes a second for B, where latency is measured."""
OTHER_REGION = "eu-west-1"
LIMITED_STREAMS = 20
LIMITS = (50, 100)
"""Batches a second."""
SLOW = {"delay": 0.1}
"""Seconds that Firehose takes, so that B is in want of a worker's processes and not of its time."""


@dataclass(frozen=True)
class Trouble:
    """The trouble of stream A."""

    name: str
    about: str
    region: str = REGION
    stream_quota: str | None = None
    conduct: Conduct = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    is_paused: bool = False
    waiting: int = WAITING_FOR_A
    """Batches, for each stream of A's."""
    streams: int = 1
    """A is as many."""
    limit: int = 0
    """Batches a second that A's region may take, in troubles that limit it."""
    conduct_of_b: Conduct = field(default_factory=dict)


def limited(limit: int) -> Trouble:
    """Many streams of a region whose limit a worker can reach."""
    return Trouble(
        f"annotation-{limit}",
        f"A is {LIMITED_STREAMS} streams of a region with a Celery rate_limit of {limit} batches a second",
        region=OTHER_REGION,
        env={"AUDIENCE_RATE_LIMITS": f"{OTHER_REGION}={limit}/s"},
        waiting=WAITING_FOR_A // 5,
        streams=LIMITED_STREAMS,
        limit=limit,
        conduct_of_b=SLOW,
    )


class Rates(NamedTuple):
    """Records a second."""

    a: float
    b: float


TROUBLES = [
    Trouble("control", "nothing is the matter with A; what the machine alone makes of two runs", waiting=0),
    Trouble("quota", "A's quota is one batch a second", stream_quota="1requests/s"),
    Trouble(
        "annotation",
        "A's region has a Celery rate_limit of one batch a second",
        region=OTHER_REGION,
        env={"AUDIENCE_RATE_LIMITS": f"{OTHER_REGION}=1/s"},
    ),
    Trouble(
        "throttled",
        "A refuses every record (HTTP 200)",
        conduct={"code": "ServiceUnavailableException", "status": 200},
    ),
    Trouble(
        "unavailable",
        "A refuses every call (ServiceUnavailableException)",
        conduct={"code": "ServiceUnavailableException", "status": 503},
    ),
    Trouble(
        "timeout",
        "A does not answer, and is waited for five seconds",
        conduct={"delay": 60.0},
        env={"AUDIENCE_FIREHOSE_TIMEOUT": "5"},
    ),
    Trouble("denied", "A fails for good (AccessDenied)", conduct={"code": "AccessDeniedException"}),
    Trouble("paused", "A is paused by an operator", is_paused=True),
]
LIMITED = [limited(limit) for limit in LIMITS]


class Isolation:
    """Runs of B, with A in trouble or without A having anything to send."""

    def __init__(self, bench: Bench, trouble: Trouble) -> None:
        self._bench = bench
        self._trouble = trouble
        self._concurrency = bench.concurrency(CONCURRENCY)
        self._register()
        self._batches = bench.batches(RECORDS)

    def rates(self, disturbed: bool) -> Rates:
        """Measure the rates of A and of B, which has more than it can send."""
        bench = self._bench
        seconds = bench.seconds(10)
        with self._worker(disturbed, as_many_as_go(seconds, RECORDS), self._trouble.conduct_of_b):
            start = bench.release(self._b) + RAMP_SECONDS
            end = start + seconds
            time.sleep(max(end - time.monotonic(), 0))
            bench.check_backlog([self._b])
            calls = bench.stack.firehose.calls()
        of_b = [call for call in calls if call.stream == self._b.name]
        of_a = [call for call in calls if call.stream != self._b.name]
        return Rates(records_between(of_a, start, end) / seconds, records_between(of_b, start, end) / seconds)

    def latency(self, disturbed: bool) -> list[float]:
        """Seconds from sending to acceptance, of each of B's changes."""
        with self._worker(disturbed, conduct_of_b={"keep": True}):
            audience = self._bench.streams[self._b]
            schedule = evenly([audience], STEADY, SETTLE_SECONDS + self._bench.seconds(20))
            return latencies(self._bench.stack, schedule, {audience}, skip=SETTLE_SECONDS)

    @contextmanager
    def _worker(
        self, disturbed: bool, batches_of_b: int = 0, conduct_of_b: Conduct | None = None
    ) -> Iterator[Worker]:
        bench, trouble = self._bench, self._trouble
        bench.say("with A in trouble" if disturbed else "B alone")
        self._register()
        bench.delay(self._only(*self._a), trouble.waiting)
        bench.delay(self._only(self._b), batches_of_b)
        if disturbed and trouble.is_paused:
            for stream in self._a:
                bench.services.circuit_breakers.pause(stream, OPERATOR)
        with bench.warm_workers(self._batches, concurrency=self._concurrency, env=trouble.env) as workers:
            conducts = {stream.name: trouble.conduct for stream in self._a}
            bench.stack.firehose.behave(conducts | {self._b.name: conduct_of_b or {}})
            if disturbed and trouble.waiting:
                bench.release(*self._a)
            time.sleep(SETTLE_SECONDS)
            yield workers[0]

    def _register(self) -> None:
        self._bench.reset()
        trouble = self._trouble
        self._a = [
            self._bench.connect(f"a-{number}", trouble.region, trouble.stream_quota)
            for number in range(trouble.streams)
        ]
        self._b = self._bench.connect("b")
        self._bench.connect_warm()

    def _only(self, *streams: Stream) -> dict[Stream, Template]:
        return {stream: self._batches[stream] for stream in streams}


def throughput(trouble: Trouble, bench: Bench) -> Iterator[Figure]:
    """Measure B's throughput beside A's trouble."""
    runs = Isolation(bench, trouble)
    pairs = in_pairs(bench.pairs, partial(runs.rates, False), partial(runs.rates, True))
    of_b = [(alone.b, beside.b) for alone, beside in pairs]
    yield of_pairs("throughput of B", "records/s", of_b, THROUGHPUT_KEPT)
    if trouble.limit:
        of_a = median(beside.a for _, beside in pairs)
        yield compared("throughput of A, beside its limit", "records/s", trouble.limit * RECORDS, of_a)


def latency(trouble: Trouble, bench: Bench) -> Iterator[Figure]:
    """Measure B's latency beside A's trouble."""
    runs = Isolation(bench, trouble)
    pairs = in_pairs(bench.pairs, partial(runs.latency, False), partial(runs.latency, True))
    yield from latency_figures("latency of B", pairs, LATENCY_KEPT)


SCENARIOS = [
    *(
        Scenario(f"isolation-{t.name}", f"throughput of B: {t.about}", partial(throughput, t))
        for t in TROUBLES + LIMITED
    ),
    *(Scenario(f"latency-{t.name}", f"latency of B: {t.about}", partial(latency, t)) for t in TROUBLES),
]

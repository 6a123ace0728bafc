"""Stream A is in trouble, stream B has work to do: what does B lose?"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from benchmarks.firehose import Conduct
from benchmarks.flow.backlog import Template
from benchmarks.flow.bench import REGION, Bench, as_many_as_go
from benchmarks.flow.figures import Figure, at_least, at_most, in_pairs, latency_figures, of_pairs
from benchmarks.flow.scenario import Scenario
from benchmarks.flow.steady import evenly, latencies
from benchmarks.stack import Worker
from worker.queues import Stream
from worker.state.gates import OPERATOR

CONCURRENCY = 8
WAITING_FOR_A = 1_000
"""Batches."""
RECORDS = 100
"""A batch."""
SETTLE = 2.0
"""Seconds in which A's trouble begins before B is measured."""
THROUGHPUT_KEPT = at_least(0.95)
LATENCY_KEPT = at_most(2)
STEADY = 20
"""Changes a second for B, where latency is measured."""
OTHER_REGION = "eu-west-1"


@dataclass(frozen=True)
class Trouble:
    """What is the matter with A."""

    name: str
    about: str
    region: str = REGION
    stream_quota: str | None = None
    conduct: Conduct = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    is_paused: bool = False
    waiting: int = WAITING_FOR_A


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


class Isolation:
    """Runs of B, with A in trouble or without A having anything to send."""

    def __init__(self, bench: Bench, trouble: Trouble) -> None:
        self._bench = bench
        self._trouble = trouble
        self._concurrency = bench.concurrency(CONCURRENCY)
        self._register()
        self._batches = bench.batches(RECORDS)

    def throughput(self, disturbed: bool) -> float:
        """Records a second of B, which has more than it can send."""
        seconds = self._bench.seconds(10)
        with self._worker(disturbed, batches_of_b=as_many_as_go(seconds, RECORDS)):
            return self._bench.rate([self._b], self._bench.release(self._b), seconds)

    def latency(self, disturbed: bool) -> list[float]:
        """Seconds from sending to acceptance, of each of B's changes."""
        with self._worker(disturbed, conduct_of_b={"keep": True}):
            audience = self._bench.streams[self._b]
            schedule = evenly([audience], STEADY, SETTLE + self._bench.seconds(20))
            return latencies(self._bench.stack, schedule, {audience}, skip=SETTLE)

    @contextmanager
    def _worker(
        self, disturbed: bool, batches_of_b: int = 0, conduct_of_b: Conduct | None = None
    ) -> Iterator[Worker]:
        bench, trouble = self._bench, self._trouble
        bench.say("with A in trouble" if disturbed else "B alone")
        self._register()
        bench.park(self._only(self._a), trouble.waiting)
        bench.park(self._only(self._b), batches_of_b)
        if disturbed and trouble.is_paused:
            bench.state.gates.close(self._a, OPERATOR)
        with bench.warm_workers(self._batches, concurrency=self._concurrency, env=trouble.env) as workers:
            bench.stack.firehose.behave({"a": trouble.conduct, "b": conduct_of_b or {}})
            if disturbed and trouble.waiting:
                bench.release(self._a)
            time.sleep(SETTLE)
            yield workers[0]

    def _register(self) -> None:
        self._bench.reset()
        self._a = self._bench.connect("a", self._trouble.region, self._trouble.stream_quota)
        self._b = self._bench.connect("b")
        self._bench.connect_warm()

    def _only(self, stream: Stream) -> dict[Stream, Template]:
        return {stream: self._batches[stream]}


def throughput(trouble: Trouble, bench: Bench) -> Iterator[Figure]:
    """What B keeps of its throughput."""
    runs = Isolation(bench, trouble)
    pairs = in_pairs(bench.pairs, partial(runs.throughput, False), partial(runs.throughput, True))
    yield of_pairs("throughput of B", "records/s", pairs, THROUGHPUT_KEPT)


def latency(trouble: Trouble, bench: Bench) -> Iterator[Figure]:
    """What becomes of B's latency."""
    runs = Isolation(bench, trouble)
    pairs = in_pairs(bench.pairs, partial(runs.latency, False), partial(runs.latency, True))
    yield from latency_figures("latency of B", pairs, LATENCY_KEPT)


SCENARIOS = [
    *(
        Scenario(f"isolation-{t.name}", f"throughput of B: {t.about}", partial(throughput, t))
        for t in TROUBLES
    ),
    *(Scenario(f"latency-{t.name}", f"latency of B: {t.about}", partial(latency, t)) for t in TROUBLES),
]

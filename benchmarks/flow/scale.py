"""The gain of a second worker."""

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import median
from typing import NamedTuple

import psutil

from benchmarks.backlog import Template, change_templates, enqueue_batches, release
from benchmarks.bench import Bench
from benchmarks.changes import BATCH
from benchmarks.figures import Figure, NotMeasured, at_least, at_most, compared, in_pairs, of_pairs
from benchmarks.scenario import Scenario
from benchmarks.stack import cpu_seconds, members_of
from worker.queues import CHANGES_QUEUE, Stream

CONCURRENCY = 2
STREAMS = 20
MESSAGES_A_SECOND = 20
"""Messages of 500 changes for each second of a run: about as many as a core forwards."""
GAIN = at_least(1.8)
FEWEST_CORES = 2

DELAY_SECONDS = 0.05
"""Seconds that the slow Firehose takes."""
SLOW_STREAMS = 4
SLOW_QUOTA = 30
"""Requests a second, of each of them."""
WORKER_COUNTS = (1, 2, 4)
"""Workers."""
RECORDS = 10
QUOTA_USED, QUOTA_KEPT = at_least(0.9), at_most(1.05)


class Run(NamedTuple):
    """The result of workers that are pinned to cores."""

    rate: float
    """Records a second."""
    efficiency: float
    """Records for each second of the workers' CPU time."""
    servers: float
    """The CPU of Redis and Firehose meanwhile, in cores."""


class Cores:
    """Runs of workers that are pinned to one core each, with a bulk of changes."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._cores = sorted(psutil.Process().cpu_affinity() or [])
        if len(self._cores) < FEWEST_CORES:
            raise NotMeasured("it takes two cores")
        self._others = self._cores[FEWEST_CORES:]
        self._register()
        self._warm = bench.batches(BATCH)

    @property
    def where(self) -> str:
        """Describe where the servers run."""
        return "on cores of their own" if self._others else "on the workers' cores, as beside one worker"

    def run(self, workers: int) -> Run:
        """So many workers, until all is delivered."""
        bench = self._bench
        bench.say(f"{workers} worker{'s' * (workers > 1)}")
        messages = self._enqueue_changes()
        with bench.warm_workers(
            self._warm, workers, concurrency=bench.concurrency(CONCURRENCY)
        ) as workers_running:
            for worker, core in zip(workers_running, self._cores, strict=False):
                worker.pin(core)
            # On a machine with no more cores, one worker is to have no better a Redis than two.
            for server in bench.stack.servers:
                server.cpu_affinity(self._others or self._cores[:workers])
            members, firehose = members_of(workers_running), bench.stack.firehose
            target = firehose.counted() + messages * BATCH
            before, servers_before = cpu_seconds(members), cpu_seconds(bench.stack.servers)
            start = time.monotonic()
            release(bench.stack.broker, [CHANGES_QUEUE])
            bench.stack.wait_for(lambda: firehose.counted() >= target, f"{messages} messages delivered")
            wall = time.monotonic() - start
            cpu, servers = cpu_seconds(members) - before, cpu_seconds(bench.stack.servers) - servers_before
        return Run(messages * BATCH / wall, messages * BATCH / cpu, servers / wall)

    def _enqueue_changes(self) -> int:
        """Enqueue the same messages for every number of workers. Returns how many."""
        self._register()
        templates = change_templates(self._bench.stack, self._bench.streams.values(), BATCH)
        messages = round(MESSAGES_A_SECOND * self._bench.seconds(10))
        enqueue_batches(self._bench.stack.broker, {CHANGES_QUEUE: templates}, messages)
        return messages

    def _register(self) -> None:
        self._bench.reset()
        self._bench.connect_many(STREAMS)
        self._bench.connect_warm()


def cores(bench: Bench) -> Iterator[Figure]:
    """Compare a worker on one core with two on two, with the same bulk of changes."""
    runs = Cores(bench)
    pairs = in_pairs(bench.pairs, partial(runs.run, 1), partial(runs.run, 2))
    servers = median(two.servers for _, two in pairs)
    note = f"Redis and Firehose took {servers:.2f} cores beside two workers, {runs.where}"
    rates = [(one.rate, two.rate) for one, two in pairs]
    yield of_pairs("throughput, 2 workers beside 1", "records/s", rates, GAIN).with_note(note)
    efficiencies = [(one.efficiency, two.efficiency) for one, two in pairs]
    yield of_pairs("the same per CPU second of theirs", "records/CPU s", efficiencies)


def latency(bench: Bench) -> Iterator[Figure]:
    """Compare one, two and four workers with a slow Firehose, until the quotas bind."""
    streams = [
        bench.connect(f"slow-{number}", stream_quota=f"{SLOW_QUOTA}requests/s")
        for number in range(SLOW_STREAMS)
    ]
    bench.connect_warm()
    templates = bench.batches(RECORDS)
    one, two, four = (_slow_rate(bench, streams, templates, workers) for workers in WORKER_COUNTS)
    quota = float(SLOW_QUOTA * SLOW_STREAMS * RECORDS)
    note = f"Firehose takes {DELAY_SECONDS * 1000:.0f} ms; {SLOW_STREAMS} streams of {SLOW_QUOTA} requests/s"
    yield compared("throughput, 2 workers beside 1", "records/s", one, two, GAIN).with_note(note)
    allowed = min(quota, one * WORKER_COUNTS[-1])
    yield compared("4 workers beside the quotas", "records/s", allowed, four, QUOTA_USED).with_note(note)
    yield compared("4 workers within the quotas", "records/s", quota, four, QUOTA_KEPT).with_note(note)


def _slow_rate(
    bench: Bench, streams: Sequence[Stream], templates: Mapping[Stream, Template], workers: int
) -> float:
    bench.say(f"{workers} worker{'s' * (workers > 1)}")
    seconds = bench.seconds(10)
    bench.stack.broker.delete(*(stream.queue for stream in streams))
    # No stream exceeds its quota by as much, even where nothing keeps it.
    messages = round((seconds + 2) * WORKER_COUNTS[-1] * bench.concurrency(CONCURRENCY) / DELAY_SECONDS)
    bench.delay({stream: templates[stream] for stream in streams}, messages)
    with bench.warm_workers(templates, workers, concurrency=bench.concurrency(CONCURRENCY)):
        bench.stack.firehose.behave({stream.name: {"delay": DELAY_SECONDS} for stream in streams})
        return bench.rate(streams, bench.release(*streams), seconds)


SCENARIOS = [
    Scenario("scale-cores", "two workers on two cores beside one on one", cores),
    Scenario("scale-latency", "1, 2 and 4 workers with a Firehose that takes 50 ms", latency),
]

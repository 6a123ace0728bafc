"""The contenders, and a run of each: this project, plain Celery, and a loop without Celery."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.bench import Bench
from benchmarks.changes import AUDIENCE, BATCH
from benchmarks.messages import PUT_RECORD, Load
from benchmarks.plain import PUT_RECORD_BATCH, QUEUE, STREAM
from benchmarks.runs import Run, forward_for
from benchmarks.stack import Stack
from devstack import processes

CONCURRENCY = 2
RUN_SECONDS = 5.0
"""Seconds of a run, about."""
BARE_RECORDS_PER_SECOND = 100_000
"""A bare loop's pace, about, by which its length is chosen."""


@dataclass(frozen=True)
class Contender:
    """A way to get changes into a stream."""

    name: str
    load: Load
    app: str
    """The argument of `celery -A`; empty for a loop without Celery."""


SINGLES = Contender("audience-firehose, 1 change a message", Load(), "worker")
PLAIN_SINGLES = Contender(
    "plain Celery, put_record, a task a change", Load(1, task=PUT_RECORD, queue=QUEUE), "benchmarks.plain"
)
BULK = Contender(f"audience-firehose, {BATCH} changes a message", Load(BATCH), "worker")
PLAIN_BULK = Contender(
    f"plain Celery, put_record_batch, a task per {BATCH}",
    Load(BATCH, task=PUT_RECORD_BATCH, queue=QUEUE),
    "benchmarks.plain",
)
BARE = Contender("bare boto3 loop over ready bytes", Load(BATCH), "")
CONTENDERS = (SINGLES, PLAIN_SINGLES, BULK, PLAIN_BULK, BARE)


class Comparison:
    """Runs of all contenders, interleaved: each round has one of each."""

    def __init__(self, rounds: Sequence[dict[Contender, Run]]) -> None:
        self._rounds = rounds

    def runs(self, contender: Contender) -> list[Run]:
        """A contender's runs, in their order."""
        return [runs[contender] for runs in self._rounds]

    def efficiencies(self, contender: Contender, peer: Contender) -> list[tuple[float, float]]:
        """The changes per CPU second of a peer and of a contender, in each round."""
        return [
            (runs[peer].changes_per_cpu_second, runs[contender].changes_per_cpu_second)
            for runs in self._rounds
        ]

    def ratio(self, contender: Contender, peer: Contender) -> float:
        """The median of the rounds' ratios: changes per CPU second, contender to peer."""
        return median(own / others for others, own in self.efficiencies(contender, peer))


def compare(bench: Bench) -> Comparison:
    """Run all contenders as often as pairs are asked for, each on an empty Redis."""
    rounds: list[dict[Contender, Run]] = []
    for number in range(bench.pairs):
        runs: dict[Contender, Run] = {}
        for contender in CONTENDERS:
            bench.say(f"{contender.name}, run {number + 1} of {bench.pairs}")
            bench.reset()
            bench.connect_audience(AUDIENCE, STREAM)
            runs[contender] = run(bench, contender)
        rounds.append(runs)
    return Comparison(rounds)


def run(bench: Bench, contender: Contender) -> Run:
    """Let a contender forward for some seconds, on processes of its own."""
    seconds = bench.seconds(RUN_SECONDS)
    if not contender.app:
        return _run_bare(bench.stack, round(seconds * BARE_RECORDS_PER_SECOND / BATCH) * BATCH)
    with bench.stack.workers(1, bench.concurrency(CONCURRENCY), app=contender.app) as workers:
        return forward_for(bench.stack, workers, contender.load, seconds)


def _run_bare(stack: Stack, records: int) -> Run:
    code = (
        "import sys, time; from benchmarks.plain import bare_loop, WARM_RECORDS; bare_loop(WARM_RECORDS);"
        "c = time.process_time(); t = time.perf_counter(); bare_loop(int(sys.argv[1]));"
        "print(time.perf_counter() - t, time.process_time() - c)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(records)],
        env={**os.environ, **stack.env},
        cwd=processes.ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    wall, cpu = map(float, done.stdout.split())
    return Run(records, records, wall, cpu, redis_cpu_seconds=0.0, calls=[])

"""A hundred streams, of which one has as much to send as the others together."""

import time
from collections.abc import Iterator
from functools import partial

from benchmarks.backlog import change_templates, enqueue_batches, release
from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_most, in_pairs, latency_figures
from benchmarks.scenario import Scenario
from benchmarks.steady import evenly, latencies
from worker.queues import CHANGES_QUEUE, Stream

CONCURRENCY = 8
STREAMS = 100
NOISE = 100
"""Times as many messages for the noisy stream as for each of the others."""
LOAD = 1 / 3
"""A share of the worker's capacity."""
FOR_CAPACITY = 20
"""Messages of one change for each stream."""
SKIPPED_SECONDS = 2.0
"""Seconds of the steady load that are not counted."""
WITHIN = at_most(2)


class Fairness:
    """Runs of a steady load for all streams but one, with and without that one's."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._concurrency = bench.concurrency(CONCURRENCY)
        self._register()
        self._warm = bench.batches(1)
        self._each = self._capacity() * LOAD / (STREAMS - 1 + NOISE)

    @property
    def load(self) -> str:
        """Describe the load."""
        return (
            f"{self._each:.2f} changes/s for each of {STREAMS - 1} streams, {self._each * NOISE:.0f} for one"
        )

    def latency(self, noisy: bool) -> list[float]:
        """Seconds from sending to acceptance, of each change for the quiet streams."""
        bench = self._bench
        bench.say(f"{'with' if noisy else 'without'} the noisy stream; {self.load}")
        self._register()
        with bench.warm_workers(self._warm, concurrency=self._concurrency):
            bench.stack.firehose.behave({stream.name: {"keep": True} for stream in self._quiet})
            quiet = [bench.streams[stream] for stream in self._quiet]
            seconds = SKIPPED_SECONDS + bench.seconds(20)
            schedule = evenly(quiet, self._each, seconds)
            if noisy:
                schedule += evenly([bench.streams[self._noisy]], self._each * NOISE, seconds)
            return latencies(bench.stack, schedule, set(quiet), skip=SKIPPED_SECONDS)

    def _capacity(self) -> float:
        """Messages of one change that the worker forwards in a second, over all streams."""
        bench = self._bench
        bench.say("what the worker can take")
        self._register()
        audiences = [bench.streams[stream] for stream in (self._noisy, *self._quiet)]
        templates = change_templates(bench.stack, audiences, changes=1)
        enqueue_batches(bench.stack.broker, {CHANGES_QUEUE: templates}, FOR_CAPACITY * STREAMS)
        with bench.warm_workers(self._warm, concurrency=self._concurrency):
            target = bench.stack.firehose.counted() + FOR_CAPACITY * STREAMS
            release(bench.stack.broker, [CHANGES_QUEUE])
            start = time.monotonic()
            bench.stack.wait_for(lambda: bench.stack.firehose.counted() >= target, "all delivered")
            return FOR_CAPACITY * STREAMS / (time.monotonic() - start)

    def _register(self) -> None:
        self._bench.reset()
        self._noisy: Stream
        self._quiet: list[Stream]
        self._noisy, *self._quiet = self._bench.connect_many(STREAMS)
        self._bench.connect_warm()


def fairness(bench: Bench) -> Iterator[Figure]:
    """Measure the latency of quiet streams beside a noisy one."""
    runs = Fairness(bench)
    pairs = in_pairs(bench.pairs, partial(runs.latency, False), partial(runs.latency, True))
    for figure in latency_figures("latency of the others", pairs, WITHIN):
        yield figure.with_note(runs.load)


SCENARIOS = [Scenario("fairness", "latency of 99 streams beside one with 100 times the traffic", fairness)]

"""Changes that wait: the calls in which they leave, and the bytes that they take in Redis."""

from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.bench import CONFIGURATION, REGION, Bench
from benchmarks.changes import AUDIENCE, BATCH
from benchmarks.contenders import CONCURRENCY
from benchmarks.figures import Figure, at_most
from benchmarks.memory import used_bytes
from benchmarks.messages import Load, is_settled, put_waiting, release
from benchmarks.runs import forward, warm
from benchmarks.scenario import Scenario
from worker.flow.circuit_breakers import OPERATOR
from worker.queues import Stream

SINGLES = 10_000
CALLS_FLOOR, CALLS_GOAL = 60, 25
"""Calls for so many."""
STREAM = Stream(CONFIGURATION, REGION, "waiting")


def calls(bench: Bench) -> Iterator[Figure]:
    """The calls in which waiting singles leave for one stream."""
    bench.connect_audience(AUDIENCE, STREAM.name)
    singles = bench.records(SINGLES)
    counts = []
    for number in range(bench.pairs):
        bench.say(f"{singles:,} waiting singles, run {number + 1} of {bench.pairs}")
        with bench.stack.workers(1, bench.concurrency(CONCURRENCY)) as workers:
            warm(bench.stack, workers, Load())
            counts.append(len(forward(bench.stack, workers, Load(), singles).calls))
    share = singles / SINGLES
    note = "runs: " + ", ".join(map(str, counts))
    yield Figure(f"calls for {singles:,} waiting singles", "calls", max(counts), note=note).with_targets(
        at_most(CALLS_FLOOR * share), at_most(CALLS_GOAL * share)
    )


def memory(bench: Bench) -> Iterator[Figure]:
    """Bytes of Redis for a change that waits for its stream, after a worker has made its record."""
    for load, changes, floor, goal in (
        (Load(), bench.records(SINGLES), 250, 150),
        (Load(BATCH), bench.records(SINGLES) * 10, 120, 90),
    ):
        bench.reset()
        bench.connect_audience(AUDIENCE, STREAM.name)
        messages = changes // load.changes_per_message
        bench.say(f"{messages:,} messages of {load.changes_per_message}")
        found = _waiting(bench, load, messages)
        what = f"bytes of a waiting change, {load.changes_per_message} a message"
        note = (
            f"baseline: as its caller sends it; {found.queue / changes:.0f} of the measured are in the"
            " stream's queue, the others are what is remembered of the messages"
        )
        figure = Figure(what, "bytes", found.taken_in / changes, found.sent / changes, note=note)
        yield figure.with_targets(at_most(floor), at_most(goal))


class Bytes(NamedTuple):
    """Bytes of Redis."""

    sent: int
    """The messages, as their caller sends them."""
    taken_in: int
    """What is there in their place once a worker has made batches of them."""
    queue: int
    """Of that, the stream's queue."""


def _waiting(bench: Bench, load: Load, messages: int) -> Bytes:
    """Have a worker take so many messages in while their stream is paused."""
    stack = bench.stack
    bench.services.circuit_breakers.pause(STREAM, OPERATOR)
    with stack.workers(1, bench.concurrency(CONCURRENCY)):
        before = used_bytes(stack)
        put_waiting(stack, load, messages)
        sent = used_bytes(stack) - before
        release(stack.broker, load)
        stack.wait_for(lambda: is_settled(stack.broker, load), "all changes taken in")
        after = used_bytes(stack)
    queue = stack.broker.memory_usage(STREAM.queue, samples=0) or 0
    return Bytes(sent, after - before, queue)


SCENARIOS = [
    Scenario("calls", "calls for 10,000 waiting singles to one stream", calls),
    Scenario("waiting-bytes", "bytes in Redis of a waiting change, sent singly and in bulk", memory),
]

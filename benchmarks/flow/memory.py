"""The memory of a worker while a stream's records must wait."""

import time
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from benchmarks.bench import Bench
from benchmarks.changes import BATCH
from benchmarks.figures import Figure, at_most, compared
from benchmarks.firehose import Conduct
from benchmarks.scenario import Scenario
from benchmarks.stack import Worker
from worker.flow.circuit_breakers import OPERATOR

CONCURRENCY = 8
CLOSED_BATCHES = 2_000
"""Batches of 500 records: a million records."""
OUTAGE_BATCHES = 500
WARMING = 20
"""Full batches for each pool process, before its memory is looked at for the first time."""
SETTLE_SECONDS = 3.0
"""Seconds without work before that."""
GROWTH = at_most(1.1)
MIB = 2**20


class Memory(NamedTuple):
    """Bytes."""

    main: int
    """Resident in the main process."""
    pool: int
    """Resident in the pool processes together; what they share counts each time."""
    together: int
    """The memory of all processes; shared pages count once (PSS). Grows a little as forks cease to share."""


def memory(worker: Worker) -> Memory:
    """A worker's memory now."""
    main, *pool = (member.memory_full_info() for member in worker.members())
    return Memory(main.rss, sum(each.rss for each in pool), main.pss + sum(each.pss for each in pool))


def most(worker: Worker, seconds: float) -> Memory:
    """The most of each in so many seconds."""
    end, seen = time.monotonic() + seconds, [memory(worker)]
    while time.monotonic() < end:
        time.sleep(0.2)
        seen.append(memory(worker))
    return Memory(*map(max, zip(*seen, strict=True)))


def waiting(batches: int, conduct: Conduct, is_closed: bool, bench: Bench) -> Iterator[Figure]:
    """A worker's memory without work, and with so many full batches waiting for a stream."""
    stream = bench.connect("a")
    bench.connect_warm()
    templates = bench.batches(BATCH)
    bench.say(f"{batches:,} batches of {BATCH} records")
    bench.delay({stream: templates[stream]}, batches)
    if is_closed:
        bench.services.circuit_breakers.pause(stream, OPERATOR)
    bench.stack.firehose.behave({"a": conduct})
    with bench.warm_workers(templates, concurrency=bench.concurrency(CONCURRENCY), each=WARMING) as workers:
        bench.stack.firehose.behave({"a": conduct})
        time.sleep(SETTLE_SECONDS)
        idle = most(workers[0], 1)
        bench.release(stream)
        held = most(workers[0], bench.seconds(20))
        left = int(bench.stack.broker.llen(stream.queue))
    note = f"{left:,} of {batches:,} batches were in the queue at the end"
    for what, before, after in zip(("main process", "pool", "all together"), idle, held, strict=True):
        yield compared(f"memory, {what}", "MiB", before / MIB, after / MIB, GROWTH).with_note(note)


OUTAGE: Conduct = {"code": "InternalFailure", "status": 500}

SCENARIOS = [
    Scenario(
        "memory-closed",
        "memory with a million records behind a closed breaker",
        partial(waiting, CLOSED_BATCHES, {}, True),
    ),
    Scenario(
        "memory-outage",
        "memory with 500 batches waiting for a stream that is down",
        partial(waiting, OUTAGE_BATCHES, OUTAGE, False),
    ),
]

"""The time until a change of a circuit breaker counts in all workers."""

import time
from collections.abc import Iterator
from statistics import median

from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_most
from benchmarks.firehose import Call
from benchmarks.scenario import Scenario
from worker.flow.circuit_breakers import OPERATOR

CONCURRENCY = 2
WORKERS = 2
ROUNDS = 5
RECORDS = 10
DELAY_SECONDS = 0.05
"""Seconds that Firehose takes: the backlog lasts, and a delivery is soon over."""
WITHIN = at_most(2)
"""Seconds."""
LONGEST_WAIT_SECONDS = 15.0
"""Seconds that are waited for a delivery after a breaker was opened."""


def breakers(bench: Bench) -> Iterator[Figure]:
    """Seconds until the last delivery after `pause`, and until the first after `resume`."""
    watched, concurrency = bench.seconds(5), bench.concurrency(CONCURRENCY)
    stream = bench.connect("a")
    bench.connect_warm()
    templates = bench.batches(RECORDS)
    bench.delay(
        {stream: templates[stream]}, round(ROUNDS * 3 * watched * WORKERS * concurrency / DELAY_SECONDS)
    )
    pauses: list[float] = []
    resumes: list[float] = []
    with bench.warm_workers(templates, WORKERS, concurrency=concurrency):
        bench.stack.firehose.behave({"a": {"delay": DELAY_SECONDS}})
        bench.release(stream)
        _first_call(bench)
        for number in range(ROUNDS):
            bench.say(f"pause and resume {number + 1} of {ROUNDS}")
            time.sleep(1)
            bench.stack.firehose.calls()
            closed = time.monotonic()
            bench.services.circuit_breakers.pause(stream, OPERATOR)
            time.sleep(watched)
            pauses.append(max((call.moment - closed for call in bench.stack.firehose.calls()), default=0.0))
            bench.check_backlog([stream])
            opened = time.monotonic()
            bench.services.circuit_breakers.resume(stream)
            resumes.append(_first_call(bench).moment - opened)
    for what, seen in (("last delivery after pause", pauses), ("first delivery after resume", resumes)):
        note = f"the worst of {ROUNDS}; median {median(seen):.2f}; {WORKERS} workers"
        yield Figure(what, "s", measured=max(seen), target=WITHIN, note=note)


def _first_call(bench: Bench) -> Call:
    """The next call that the Firehose answers."""
    found: list[Call] = []

    def is_there() -> bool:
        found.extend(bench.stack.firehose.calls())
        return bool(found)

    bench.stack.wait_for(is_there, "a delivery", timeout=LONGEST_WAIT_SECONDS)
    return found[0]


SCENARIOS = [Scenario("circuit-breakers", "seconds until pause and resume count, with two workers", breakers)]

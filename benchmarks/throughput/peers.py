"""The CPU of the workers and of Redis for a change, beside plain Celery and a bare boto3 loop."""

from collections.abc import Iterator
from statistics import median

from benchmarks.bench import Bench
from benchmarks.contenders import (
    BARE,
    BULK,
    PLAIN_BULK,
    PLAIN_SINGLES,
    SINGLES,
    Comparison,
    Contender,
    compare,
)
from benchmarks.figures import Figure, at_least, at_most, of_pairs
from benchmarks.scenario import Scenario


def peers(bench: Bench) -> Iterator[Figure]:
    """All contenders in turn, as often as there are pairs."""
    comparison = compare(bench)
    yield _times(comparison, "1 change a message, times a plain task", SINGLES, PLAIN_SINGLES).with_targets(
        at_least(25), at_least(80)
    )
    yield _times(comparison, "500 a message, of the bare loop", BULK, BARE).with_targets(
        at_least(0.75), at_least(1.1)
    )
    yield _times(comparison, "500 a message, times plain put_record_batch", BULK, PLAIN_BULK)
    yield _redis(comparison, "Redis CPU, 1 change a message", SINGLES, PLAIN_SINGLES).with_targets(
        at_most(40), at_most(15)
    )
    yield _redis(comparison, "Redis CPU, 500 a message", BULK, PLAIN_BULK).with_targets(
        at_most(3), at_most(1.5)
    )


def _times(comparison: Comparison, what: str, contender: Contender, peer: Contender) -> Figure:
    return of_pairs(what, "changes/CPU s", comparison.efficiencies(contender, peer))


def _redis(comparison: Comparison, what: str, contender: Contender, peer: Contender) -> Figure:
    own, others = (
        [run.redis_microseconds_per_change for run in comparison.runs(each)] for each in (contender, peer)
    )
    note = "baseline: plain Celery; runs: " + ", ".join(f"{figure:.1f}" for figure in own)
    return Figure(what, "µs/change", median(own), median(others), note=note)


SCENARIOS = [Scenario("peers", "CPU of a change, beside plain Celery and bare boto3, in pairs", peers)]

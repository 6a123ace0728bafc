"""A run: what waits is released, and its cost is counted until all of it is delivered.

CPU seconds are those of the workers with their pools, from the release until the last record is accepted and
no message is reserved. All processes have done such work before: starts and first calls do not count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import psutil

from benchmarks.firehose import Call
from benchmarks.messages import Load, is_settled, put_waiting, release
from benchmarks.stack import Stack, Worker, cpu_seconds, members_of

FIRST_CHANGES = 200
"""Changes that the first wave sends to processes that have done nothing yet."""
MAX_WAVES = 30
WARM_SECONDS = 0.1
"""CPU seconds that each process has used before a run: more than making a client costs."""
CALIBRATION_SECONDS = 0.5
"""Seconds that the last wave takes at least, by which the number of changes of a run is chosen."""
WAVE_GROWTH = 4
MAX_CHANGES = 200_000
MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class Run:
    """The cost of forwarding so many changes."""

    changes: int
    records: int
    wall_seconds: float
    cpu_seconds: float
    """CPU seconds of the workers and their pools."""
    redis_cpu_seconds: float
    calls: Sequence[Call]
    """The calls of Firehose."""

    @property
    def changes_per_cpu_second(self) -> float:
        return self.changes / self.cpu_seconds

    @property
    def records_per_cpu_second(self) -> float:
        return self.records / self.cpu_seconds

    @property
    def records_per_second(self) -> float:
        return self.records / self.wall_seconds

    @property
    def redis_microseconds_per_change(self) -> float:
        return self.redis_cpu_seconds / self.changes * MICROSECONDS

    @property
    def redis_microseconds_per_record(self) -> float:
        return self.redis_cpu_seconds / self.records * MICROSECONDS


def redis_cpu_seconds(stack: Stack) -> float:
    """CPU seconds that Redis has used so far, all its threads together."""
    info: dict[str, Any] = stack.broker.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def forward(
    stack: Stack, workers: Sequence[Worker], load: Load, messages: int, records_per_change: int = 1
) -> Run:
    """Have these workers forward so many messages, which wait when they begin."""
    put_waiting(stack, load, messages)
    return _forward(stack, members_of(workers), load, messages, records_per_change)


def forward_for(
    stack: Stack,
    workers: Sequence[Worker],
    load: Load,
    seconds: float,
    *,
    records_per_change: int = 1,
    max_changes: int = MAX_CHANGES,
) -> Run:
    """The same with as many messages as take about so many seconds, once all processes are warm."""
    rate = warm(stack, workers, load, records_per_change)
    changes = min(max(rate * seconds, load.changes_per_message), max_changes)
    messages = max(round(changes / load.changes_per_message), 1)
    return forward(stack, workers, load, messages, records_per_change)


def warm(stack: Stack, workers: Sequence[Worker], load: Load, records_per_change: int = 1) -> float:
    """Forward waves of messages until each process has worked. Returns changes a second of the last wave."""
    members = members_of(workers)
    started = {member.pid: cpu_seconds([member]) for member in members}
    changes = FIRST_CHANGES
    for _ in range(MAX_WAVES):
        messages = max(round(changes / load.changes_per_message), len(members))
        put_waiting(stack, load, messages)
        run = _forward(stack, members, load, messages, records_per_change)
        are_warm = all(cpu_seconds([member]) - started[member.pid] >= WARM_SECONDS for member in members)
        is_long_enough = run.wall_seconds >= CALIBRATION_SECONDS or changes >= MAX_CHANGES
        if are_warm and is_long_enough:
            break
        if not is_long_enough:
            changes = min(changes * WAVE_GROWTH, MAX_CHANGES)
    return run.changes / run.wall_seconds


def _forward(
    stack: Stack, members: Sequence[psutil.Process], load: Load, messages: int, records_per_change: int
) -> Run:
    changes = messages * load.changes_per_message
    records = changes * records_per_change
    stack.firehose.calls()
    target, cpu, redis_cpu = (
        stack.firehose.counted() + records,
        cpu_seconds(members),
        redis_cpu_seconds(stack),
    )
    started = perf_counter()
    release(stack.broker, load)
    stack.wait_for(lambda: stack.firehose.counted() >= target, f"{records:,} records delivered")
    wall = perf_counter() - started
    stack.wait_for(lambda: is_settled(stack.broker, load), "no message reserved")
    return Run(
        changes=changes,
        records=records,
        wall_seconds=wall,
        cpu_seconds=cpu_seconds(members) - cpu,
        redis_cpu_seconds=redis_cpu_seconds(stack) - redis_cpu,
        calls=stack.firehose.calls(),
    )

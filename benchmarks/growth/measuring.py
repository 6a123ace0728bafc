"""A run at a point of an axis: records a second, CPU, and what waiting records take in Redis."""

from benchmarks.bench import Bench
from benchmarks.growth.settings import Axis, Point, Setting
from benchmarks.memory import used_bytes
from benchmarks.messages import Load, is_settled, put_waiting, release
from benchmarks.runs import MICROSECONDS, forward_for
from worker.flow.circuit_breakers import OPERATOR
from worker.queues import Stream

RUN_SECONDS = 3.0
WAITING_BYTES = 4_000_000
"""Bytes of the records that wait, about."""
MIN_WAITING_MESSAGES = 20
AUDIENCE = 0
"""The audience with several connections."""


def measure(bench: Bench, axis: Axis, setting: Setting) -> Point:
    """Forward for some seconds; then have the records of a few messages wait for paused streams."""
    streams, load = _connect(bench, setting)
    value = getattr(setting, axis.name)
    bench.say(f"{value:,} {axis.label}")
    stack = bench.stack
    with stack.workers(setting.workers, setting.concurrency) as workers:
        delay = {"delay": setting.latency_ms / 1000}
        stack.firehose.behave({stream.name: delay for stream in streams} if setting.latency_ms else {})
        run = forward_for(
            stack, workers, load, bench.seconds(RUN_SECONDS), records_per_change=setting.connections
        )
    return Point(
        axis=axis.name,
        value=value,
        records_per_second=run.records_per_second,
        cpu_microseconds=run.cpu_seconds / run.records * MICROSECONDS,
        redis_microseconds=run.redis_microseconds_per_record,
        redis_bytes=_waiting_bytes(bench, setting, streams, load),
    )


def _connect(bench: Bench, setting: Setting) -> tuple[list[Stream], Load]:
    bench.reset()
    streams = bench.connect_many(max(setting.streams, setting.connections))
    audiences = [bench.streams[stream] for stream in streams]
    if setting.connections > 1:
        audiences = [AUDIENCE]
        bench.connect_audience(AUDIENCE, *(stream.name for stream in streams))
    return streams, Load(setting.message_changes, audiences, filler_bytes=setting.filler_bytes)


def _waiting_bytes(bench: Bench, setting: Setting, streams: list[Stream], load: Load) -> float:
    stack = bench.stack
    messages = max(WAITING_BYTES // (setting.record_bytes * load.changes_per_message), MIN_WAITING_MESSAGES)
    # Only those that the messages are for: to pause ten thousand takes a while.
    for stream in streams[:messages]:
        bench.services.circuit_breakers.pause(stream, OPERATOR)
    with stack.workers(1, setting.concurrency):
        before = used_bytes(stack)
        put_waiting(stack, load, messages)
        release(stack.broker, load)
        stack.wait_for(lambda: is_settled(stack.broker, load), "all changes taken in")
        waiting = used_bytes(stack) - before
    return waiting / (messages * load.changes_per_message * setting.connections)

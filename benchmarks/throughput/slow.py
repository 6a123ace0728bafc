"""How many streams' quotas two cores fill while Firehose takes 50 ms a call."""

from collections.abc import Iterator

from benchmarks.bench import Bench
from benchmarks.changes import BATCH, change
from benchmarks.figures import Figure, NotMeasured, at_least
from benchmarks.messages import Load, put_waiting, release
from benchmarks.plain import record
from benchmarks.runs import warm
from benchmarks.scenario import Scenario

DELAY_SECONDS = 0.05
STREAMS = 7
QUOTA_BYTES = 5 * 2**20
"""Bytes a second that Firehose takes for a stream of us-east-1."""
SECONDS = 5.0
"""Seconds of each stream's quota that wait at the beginning."""
CONCURRENCY = 24
"""More processes than cores, as they wait for Firehose most of the time."""
BURST_SECONDS = 1.0
"""Seconds at the beginning that do not count: a stream that had nothing may take a second's quota at once."""


def filled(bench: Bench) -> Iterator[Figure]:
    """Bytes a second of waiting changes in bulk, in quotas of a stream."""
    stack = bench.stack
    streams = [bench.connect(f"slow-{number}") for number in range(STREAMS)]
    load = Load(BATCH, [bench.streams[stream] for stream in streams])
    of_a_message = len(record(change(1))["Data"]) * BATCH
    messages = round(bench.seconds(SECONDS) * STREAMS * QUOTA_BYTES / of_a_message)
    bench.say(f"{messages * BATCH:,} records for {STREAMS} streams")
    # Empty: the quotas of AWS, as for every installation.
    env = {"AUDIENCE_STREAM_QUOTAS": ""}
    with stack.workers(1, bench.concurrency(CONCURRENCY), env=env) as workers:
        stack.firehose.behave({stream.name: {"delay": DELAY_SECONDS} for stream in streams})
        warm(stack, workers, load)
        put_waiting(stack, load, messages)
        stack.firehose.calls()
        target = stack.firehose.counted() + messages * BATCH
        release(stack.broker, load)
        stack.wait_for(lambda: stack.firehose.counted() >= target, f"{messages} messages delivered")
        calls = stack.firehose.calls()
    start = min(call.moment for call in calls) + BURST_SECONDS
    late = [call for call in calls if call.moment > start]
    if not late:
        raise NotMeasured("all was delivered in the first second; try more --seconds")
    seconds = max(call.moment for call in late) - start
    rate = sum(call.bytes for call in late) / seconds
    figure = Figure("streams' quotas filled", "5 MiB/s", rate / QUOTA_BYTES)
    yield figure.with_targets(at_least(4), at_least(6)).with_note(
        f"{len(calls):,} calls of {DELAY_SECONDS * 1000:.0f} ms, {seconds:.1f} s, {STREAMS} streams; by the"
        " clock, so other work on the machine counts"
    )


SCENARIOS = [Scenario("slow-firehose", "streams whose quota 2 cores fill, 50 ms a call", filled)]

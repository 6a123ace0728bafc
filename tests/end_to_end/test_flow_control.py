"""Every stream at its own pace, over real workers. The figures are those of `benchmarks/flow`."""

import os
import signal
from contextlib import ExitStack

import pytest
from waiting import eventually

from devstack.firehose import error, fail

POOL = 8
QUARTER = 2
"""Of the processes: what a stream has at first, and what it leaves to the others."""
BATCHES = 20
SLOW_BATCHES = 100
"""Of a stream that takes one a second: half of them wait while a busy machine delivers the others."""
LONG = {"AUDIENCE_RETRY_BACKOFF": "600", "AUDIENCE_RETRY_BACKOFF_MAX": "600"}
"""Seconds: a stream that fails is left alone for half a minute at least."""
OTHER_REGION = "eu-west-1"
ONE_BY_ONE = {"AUDIENCE_RUN_MESSAGES": "1"}
"""Each message makes a batch of its own."""


@pytest.fixture
def start(idle_stack):
    """Start a worker; it ends with the story."""
    with ExitStack() as workers:

        def start(*options, concurrency=None, **env):
            processes = () if concurrency is None else ("--concurrency", str(concurrency))
            worker = workers.enter_context(
                idle_stack.worker(*processes, *options, "--without-mingle", env=ONE_BY_ONE | env)
            )
            # Stopping well has stories of its own.
            workers.callback(worker.kill)
            return worker

        yield start


def send_batches(audience, number=BATCHES):
    """Changes that become a batch each."""
    for customer in range(number):
        audience.stack.send(*audience.added(f"customer-{customer}"))


def test_a_pause_and_its_end_count_in_every_worker(idle_stack, start):
    audience, other = idle_stack.audience(), idle_stack.audience()
    for _ in range(2):
        start(concurrency=1)
    send_batches(audience)
    eventually(lambda: len(audience.received()) == BATCHES)

    idle_stack.services.circuit_breakers.pause(audience.stream, "operator")
    send_batches(audience)
    eventually(lambda: audience.waiting() == BATCHES)
    send_batches(other)
    eventually(lambda: len(other.received()) == BATCHES)
    assert len(audience.received()) == BATCHES

    idle_stack.services.circuit_breakers.resume(audience.stream)
    eventually(lambda: len(audience.received()) == 2 * BATCHES)


def test_one_batch_probes_a_failing_stream_and_the_others_stay_in_the_broker(idle_stack, start):
    audience, other = idle_stack.audience(), idle_stack.audience()
    idle_stack.firehose.faults.append(fail(error("InternalFailure", 500), times=1))
    start(concurrency=1, **LONG)
    send_batches(audience)
    eventually(lambda: idle_stack.services.circuit_breakers.get(audience.stream))
    # The retry of the first one waits behind them, or apart.
    eventually(lambda: audience.waiting() >= BATCHES - 1)
    send_batches(other)
    eventually(lambda: len(other.received()) == BATCHES)
    assert audience.puts() == [1]

    idle_stack.services.circuit_breakers.resume(audience.stream)
    # The first one waits for its retry.
    eventually(lambda: len(audience.received()) == BATCHES - 1)


def test_a_stream_that_does_not_answer_has_a_quarter_of_the_pool(idle_stack, start, hanging):
    silent, sound = idle_stack.audience(), idle_stack.audience()
    idle_stack.firehose.faults.append(fail(hanging, stream=silent.stream.name))
    start(concurrency=POOL)
    send_batches(silent)
    eventually(lambda: len(silent.puts()) == QUARTER)
    send_batches(sound)
    eventually(lambda: len(sound.received()) == BATCHES)
    assert len(silent.puts()) == QUARTER
    hanging.wait.set()
    eventually(lambda: len(silent.received()) == BATCHES)


def test_a_pool_grows_for_the_batches_of_one_stream(idle_stack, start, hanging):
    audience = idle_stack.audience()
    idle_stack.services.circuit_breakers.pause(audience.stream, "operator")
    producer = start(concurrency=1)
    send_batches(audience, number=2 * BATCHES)
    eventually(lambda: audience.waiting() == 2 * BATCHES)
    producer.kill()

    idle_stack.firehose.latency = 0.05
    idle_stack.services.circuit_breakers.resume(audience.stream)
    start(f"--autoscale={POOL},{POOL // 2}", AUTOSCALE_KEEPALIVE="0.2")
    eventually(lambda: len(audience.received()) >= BATCHES)
    idle_stack.firehose.faults.append(fail(hanging, stream=audience.stream.name))
    stats = idle_stack.caller.control.inspect(limit=1).stats
    eventually(lambda: [of["autoscaler"]["current"] for of in stats().values()] == [POOL - QUARTER])


def test_a_stream_at_its_quota_waits_in_the_broker_and_others_do_not(idle_stack, start):
    slow, quick = idle_stack.audience(stream_quota="1requests/s"), idle_stack.audience()
    for _ in range(2):
        start(concurrency=1)
    send_batches(slow, number=SLOW_BATCHES)
    send_batches(quick)
    eventually(lambda: len(quick.received()) == BATCHES)
    assert slow.waiting() > SLOW_BATCHES / 2
    eventually(lambda: len(slow.received()) > 1)


def test_a_rate_limit_leaves_other_regions_alone_and_changes_while_the_worker_runs(idle_stack, start):
    limited, free = idle_stack.audience(region=OTHER_REGION), idle_stack.audience()
    start(concurrency=1, AUDIENCE_RATE_LIMITS=f"{OTHER_REGION}=1/h")
    send_batches(limited)
    send_batches(free)
    eventually(lambda: len(free.received()) == BATCHES)
    eventually(lambda: (len(limited.received()), limited.waiting()) == (1, BATCHES - 1))
    idle_stack.caller.control.rate_limit(limited.stream.task, "1000/s")
    eventually(lambda: len(limited.received()) == BATCHES)


def test_a_worker_that_hangs_stops_no_stream(idle_stack, start):
    audience = idle_stack.audience()
    stuck = start(concurrency=1)
    start(concurrency=1)
    os.kill(stuck.pid, signal.SIGSTOP)
    try:
        send_batches(audience)
        # RabbitMQ has sent a message to each of them, of the changes and of the stream.
        eventually(lambda: len(audience.received()) >= BATCHES - 2)
    finally:
        os.kill(stuck.pid, signal.SIGCONT)
    eventually(lambda: len(audience.received()) == BATCHES)

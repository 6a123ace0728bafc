"""Workers get SIGTERM. They finish the tasks in flight and requeue the other messages."""

import os
import signal
import threading

import pytest
from chaos import CONCURRENCY, ONE_BY_ONE, PATIENT, RECORDS
from full_size import FULL
from waiting import eventually

from devstack.firehose import Answer, error, fail, refuse_share

STOPS = 10 if FULL else 2
BACKOFF = 8
WAIT_SECONDS = 120
"""Seconds for what has waited for its retry to arrive."""
TROUBLES = {
    "records refused": refuse_share(0.3, seed=3),
    "stream left alone": fail(error("InternalFailure", 500)),
}


def stop(worker):
    """Ask a worker to stop. Fails where it does not end by itself."""
    ask_to_stop(worker)
    wait_for_end(worker)


def ask_to_stop(worker):
    """Return once the worker has heard of it."""
    os.kill(worker.pid, signal.SIGTERM)
    eventually(lambda: "Warm shutdown" in worker.output())


def wait_for_end(worker):
    eventually(lambda: not worker.is_running)
    assert worker.stop() == 0


def test_sigterm_under_load_loses_and_repeats_nothing(stack, load, start, tell):
    broker = stack.broker_client()
    step = RECORDS // (STOPS + 1) // 100 * 100
    for _ in range(STOPS):
        worker = start(**PATIENT)
        with load.holding_put(200) as wait_for_put:
            load.send(step)
            wait_for_put()
            ask_to_stop(worker)
        wait_for_end(worker)
        assert not broker.hlen("unacked")
    start(**PATIENT)
    load.send()
    load.arrive()
    status = load.settle()
    tell(load, f"{STOPS} x SIGTERM")
    assert (status.counts.enqueued, status.counts.delivered) == (RECORDS, RECORDS)


def test_sigterm_while_firehose_does_not_answer_ends_the_worker_in_time_and_loses_nothing(
    stack, load, start, tell
):
    """The worker waits for as long as a call may take, and the calls are made again by the next one."""
    stack.firehose.faults.append(fail(Answer(wait=threading.Event()), times=CONCURRENCY))
    worker = start(AUDIENCE_FIREHOSE_TIMEOUT="3", AUDIENCE_VISIBILITY_TIMEOUT="60", **ONE_BY_ONE)
    load.send()
    eventually(load.audience.puts)
    stop(worker)
    start(**PATIENT)
    load.arrive()
    status = load.settle()
    tell(load, "SIGTERM while calls hang", allowed=CONCURRENCY * load.per_message)
    assert (status.counts.enqueued, status.counts.delivered) == (RECORDS, RECORDS)


@pytest.mark.parametrize("trouble", TROUBLES)
def test_batches_that_wait_for_a_retry_outlive_their_worker(stack, load, start, tell, trouble):
    """It waits in the broker. The next worker need not wait for the visibility timeout."""
    stack.firehose.faults.append(TROUBLES[trouble])
    env = {
        "AUDIENCE_RETRY_BACKOFF": str(BACKOFF),
        "AUDIENCE_RETRY_BACKOFF_MAX": str(BACKOFF),
        "AUDIENCE_VISIBILITY_TIMEOUT": str(10 * WAIT_SECONDS),
    }
    worker = start(**env)
    load.send()
    eventually(
        lambda: load.status().counts.enqueued == RECORDS and load.status().counts.retrying > 0, WAIT_SECONDS
    )
    stop(worker)
    status = load.status()
    assert status.counts.retrying > 0
    assert status.counts.delivered == load.arrived() == RECORDS - status.in_broker
    stack.firehose.faults.clear()
    start(**env)
    eventually(lambda: not load.lost, timeout=WAIT_SECONDS)
    status = load.settle()
    tell(load, "SIGTERM while batches wait for a retry")
    assert (status.counts.enqueued, status.counts.delivered, status.dead) == (RECORDS, RECORDS, 0)


@pytest.mark.full
def test_a_rolling_restart_of_three_workers_loses_and_repeats_nothing(stack, load, start, tell):
    # A put is held while a quarter of the load is sent, and the other workers must not take it for lost.
    env = {"AUDIENCE_VISIBILITY_TIMEOUT": str(WAIT_SECONDS)}
    workers = [start(**env) for _ in range(3)]
    for old in workers:
        with load.holding_put(1) as wait_for_put:
            load.send(RECORDS // 4 // 100 * 100)
            wait_for_put()
            ask_to_stop(old)
        wait_for_end(old)
        start(**env)
    load.send()
    load.arrive()
    status = load.settle()
    tell(load, "3 workers replaced, one by one")
    assert (status.counts.enqueued, status.counts.delivered) == (RECORDS, RECORDS)

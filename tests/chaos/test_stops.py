"""Workers are asked to stop. They finish what they have in hand and hand back the rest."""

import os
import signal

from chaos import FULL, RECORDS
from firehose import error, fail
from waiting import eventually

GRACE = 10.0
"""Seconds until a supervisor would lose its patience: Docker's default."""
STOPS = 10 if FULL else 2


def stop(worker):
    """Ask a worker to stop. Fails where it does not within the grace period."""
    os.kill(worker.pid, signal.SIGTERM)
    eventually(lambda: not worker.is_running, timeout=GRACE)
    assert worker.stop() == 0


def test_sigterm_under_load(stack, load, start, tell):
    broker = stack.broker_client()
    step = RECORDS // (STOPS + 1) // 100 * 100
    for number in range(STOPS):
        worker = start()
        load.send(step)
        moment = number * step + 200
        eventually(lambda moment=moment: load.arrived() >= moment, every=0.001)
        stop(worker)
        assert not broker.hlen("unacked")
    start()
    load.send()
    load.arrive()
    books = load.settle()
    tell(load, f"{STOPS} x SIGTERM")
    assert (books.counts.accepted, books.counts.delivered) == (RECORDS, RECORDS)


def test_what_waits_for_a_retry_is_handed_back(stack, load, start):
    """A worker holds it unacknowledged. The next one need not wait for the visibility timeout."""
    stack.firehose.faults.append(fail(error("InternalFailure", 500)))
    worker = start(
        AUDIENCE_RETRY_BACKOFF="600", AUDIENCE_RETRY_BACKOFF_MAX="600", AUDIENCE_VISIBILITY_TIMEOUT="900"
    )
    load.send()
    eventually(lambda: load.books().counts.retrying == RECORDS, timeout=60)
    stop(worker)
    broker = stack.broker_client()
    assert not broker.hlen("unacked")
    assert broker.llen(load.audience.stream.queue) == RECORDS // load.per_message
    assert (load.arrived(), load.books().in_broker) == (0, RECORDS)


def test_a_rolling_restart_of_three_workers(stack, load, start, tell):
    workers = [start() for _ in range(3)]
    for number, old in enumerate(workers):
        load.send(RECORDS // 4 // 100 * 100)
        eventually(lambda moment=number * RECORDS // 4: load.arrived() > moment, every=0.001)
        stop(old)
        start()
    load.send()
    load.arrive()
    books = load.settle()
    tell(load, "3 workers replaced, one by one")
    assert (books.counts.accepted, books.counts.delivered) == (RECORDS, RECORDS)

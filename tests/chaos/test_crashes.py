"""Workers die at any moment. Nothing is lost; what was just being put may be put again."""

import os
import random
import signal
from itertools import cycle, islice

import psutil
from chaos import CONCURRENCY, KILLS, ONE_BY_ONE, RECORDS
from load import Load
from stopping_point import StoppingPoint
from waiting import eventually

from worker.firehose.batching import MAX_BATCH_RECORDS

LONG_MESSAGE = 10_000
"""Changes of one message: twenty batches."""


def pool_processes(worker):
    """The IDs of a worker's pool processes."""
    return [child.pid for child in psutil.Process(worker.pid).children()]


def kill_all(worker, chance):
    worker.kill()


def kill_main_process(worker, chance):
    """The pool processes finish their tasks, and no main process is left to read the results."""
    os.kill(worker.pid, signal.SIGKILL)


def kill_pool_process(worker, chance):
    os.kill(chance.choice(pool_processes(worker)), signal.SIGKILL)


KINDS = (kill_main_process, kill_pool_process, kill_all)


def test_killed_workers_lose_nothing_and_repeat_at_most_the_batches_in_a_call(stack, load, start, tell):
    chance = random.Random(1)
    worker = start(**ONE_BY_ONE)
    for kill in islice(cycle(KINDS), KILLS):
        share = RECORDS // (KILLS + 1) // 100 * 100
        with load.holding_put(chance.randint(1, share)) as wait_for_put:
            load.send(share)
            wait_for_put()
            kill(worker, chance)
        if kill is not kill_pool_process:
            worker = start(**ONE_BY_ONE)
    load.send()
    load.arrive()
    # A run whose process was killed before it was counted is counted by another worker.
    eventually(lambda: load.status().counts.enqueued >= RECORDS)
    status = load.settle()
    in_flight = KILLS * CONCURRENCY * load.per_message
    tell(load, f"{KILLS} x SIGKILL", allowed=in_flight)
    # That a run is counted is remembered for four visibility timeouts, which are eight seconds here: workers
    # that are killed again and again before they look for uncounted runs count it twice.
    assert RECORDS <= status.counts.enqueued <= RECORDS + in_flight
    assert status.dead == 0
    # A call that outlives its worker's main process may be counted beside its repetition.
    assert RECORDS <= status.counts.delivered <= RECORDS + load.repeated


def test_workers_that_are_killed_over_runs_of_single_changes_lose_nothing(stack, start, tell):
    load = Load(stack.audience(), RECORDS // 2, per_message=1)
    chance = random.Random(2)
    worker = start()
    share = load.records // (KILLS + 1)
    for kill in islice(cycle(KINDS), KILLS):
        with load.holding_put(chance.randint(1, share)) as wait_for_put:
            load.send(share)
            wait_for_put()
            kill(worker, chance)
        if kill is not kill_pool_process:
            worker = start()
    load.send()
    load.arrive()
    # A run whose process was killed before it was counted is counted by another worker.
    eventually(lambda: load.status().counts.enqueued >= load.records)
    status = load.settle()
    in_flight = KILLS * CONCURRENCY * load.largest_put()
    tell(load, f"{KILLS} x SIGKILL", allowed=in_flight)
    # As above.
    assert load.records <= status.counts.enqueued <= load.records + in_flight
    assert status.dead == 0
    # As above.
    assert load.records <= status.counts.delivered <= load.records + load.repeated


def test_a_batch_that_was_delivered_and_comes_back_is_skipped(stack, load, start, tell):
    """Each message is put into its queue again, as it was, after all of them were delivered."""
    broker = stack.broker_client()
    stack.services.circuit_breakers.pause(load.audience.stream, "operator")
    start(AUDIENCE_VISIBILITY_TIMEOUT="60")
    load.send()
    eventually(lambda: load.status().counts.enqueued == RECORDS)
    copies = broker.lrange(load.audience.stream.queue, 0, -1)
    stack.services.circuit_breakers.resume(load.audience.stream)
    load.arrive()
    load.settle()
    broker.lpush(load.audience.stream.queue, *copies)
    status = load.settle()
    tell(load, f"{len(copies)} batches come back")
    assert (status.counts.enqueued, status.counts.delivered) == (RECORDS, RECORDS)


def test_a_producer_that_is_killed_between_two_of_its_sends_repeats_no_batch(stack, start, tell, tmp_path):
    """While the stream is paused, its queue shows that a batch was enqueued twice; then all are delivered."""
    load = Load(stack.audience(), max(RECORDS, LONG_MESSAGE), per_message=LONG_MESSAGE)
    broker, queue = stack.broker_client(), load.audience.stream.queue
    stack.services.circuit_breakers.pause(load.audience.stream, "operator")
    stopping_point = StoppingPoint(tmp_path)
    start("--include", "stopping_point", AUDIENCE_VISIBILITY_TIMEOUT="60", **stopping_point.environment)
    while load.sent < load.records:
        stopping_point.arm()
        load.send(LONG_MESSAGE)
        os.kill(stopping_point.wait(), signal.SIGKILL)
        eventually(lambda: load.status().counts.enqueued == load.sent)
    surplus = broker.llen(queue) - load.records // MAX_BATCH_RECORDS
    assert surplus == load.records // LONG_MESSAGE, "one batch is enqueued twice for each kill"
    stack.services.circuit_breakers.resume(load.audience.stream)
    load.arrive()
    status = load.settle()
    tell(load, f"{load.records // LONG_MESSAGE} kills, {surplus} batches enqueued twice")
    assert (status.counts.enqueued, status.counts.delivered) == (load.records, load.records)

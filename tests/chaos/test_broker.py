"""Redis goes away, comes back, or is full. Workers find it again by themselves."""

import random

import pytest
from chaos import PATIENT, RECORDS
from full_size import FULL
from kombu.exceptions import OperationalError
from waiting import eventually

from devstack.firehose import refuse_once
from devstack.processes import redis_servers

SERVERS = redis_servers()
"""Redis and Valkey, where this machine has both."""
FAULTS = 20 if FULL else 2
ROOM = 20 * 2**20 if FULL else 4 * 2**20
"""Bytes until Redis is full."""
SHORTAGE = ROOM // 4
"""Bytes that must go before Redis is full no more."""


def faults_under_load(load, fault):
    """Let a fault happen at random records, each time while a batch is in flight and more is being sent."""
    chance = random.Random(2)
    share = load.records // FAULTS
    for _ in range(FAULTS):
        with load.holding_put(chance.randint(1, share)) as wait_for_put, load.sending(share):
            wait_for_put()
            fault()
    load.arrive()


def test_a_restart_of_redis_loses_and_repeats_nothing(stack, load, start, tell):
    worker = start(**PATIENT)
    faults_under_load(load, stack.broker.restart)
    status = load.settle()
    tell(load, f"{FAULTS} restarts, {load.refusals} refusals")
    assert worker.is_running
    assert (status.counts.enqueued, status.counts.delivered) == (RECORDS, RECORDS)


@pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS)
@pytest.mark.parametrize("redis_options", [("--appendfsync", "always")], ids=["always"])
def test_a_killed_redis_that_syncs_always_loses_and_repeats_nothing(stack, load, start, tell):
    worker = start(**PATIENT)
    faults_under_load(load, lambda: stack.broker.restart(kill=True))
    status = load.settle()
    tell(load, f"{FAULTS} x SIGKILL of Redis, {load.refusals} refusals")
    assert worker.is_running
    assert (status.counts.enqueued, status.counts.delivered) == (RECORDS, RECORDS)


def test_cut_connections_to_redis_lose_and_repeat_nothing(stack, load, start, tell):
    worker = start(**PATIENT)
    faults_under_load(load, lambda: cut_connections(stack))
    status = load.settle()
    tell(load, f"{FAULTS} x CLIENT KILL of all, {load.refusals} refusals")
    assert worker.is_running
    assert (status.counts.enqueued, status.counts.delivered) == (RECORDS, RECORDS)


def cut_connections(stack):
    """Cut every connection to Redis but our own."""
    client = stack.services.redis
    mine = client.client_id()
    for connection in client.client_list():
        if int(connection["id"]) != mine:
            client.client_kill_filter(_id=connection["id"])


def test_a_full_redis_refuses_callers_and_loses_nothing_that_was_accepted(stack, load, start, tell):
    """A closed stream's backlog fills Redis. Callers are refused; what was accepted is delivered.

    By a worker that begins with a full Redis, and has to send some records again.
    """
    first = start(**PATIENT)
    stack.services.circuit_breakers.pause(load.audience.stream, "operator")
    load.only_once, load.bulky = True, True
    redis = stack.services.redis
    limit = redis.info("memory")["used_memory"] + ROOM
    redis.config_set("maxmemory", limit)
    # Above the nine tenths by more than what a message on its way takes for a moment.
    while redis.info("memory")["used_memory"] < 0.95 * limit:
        send_more(load)
        eventually(lambda: load.status().counts.enqueued == load.sent)
    (alert,) = eventually(stack.services.alerts.all)
    assert (alert.severity, "nearly full" in alert.message) == ("warning", True)
    with pytest.raises(OperationalError):
        while True:
            send_more(load)
    assert first.stop() == 0
    redis.config_set("maxmemory", redis.info("memory")["used_memory"] - SHORTAGE)
    stack.firehose.faults.append(refuse_once(b'7"'))
    worker = start(mingles=True, **PATIENT)
    stack.services.circuit_breakers.resume(load.audience.stream)
    load.arrive()
    status = load.settle()
    tell(load, f"full Redis, restart, {load.refusals} refusal")
    assert worker.is_running
    assert (status.counts.enqueued, status.counts.delivered) == (load.sent, load.sent)


def send_more(load):
    load.records = load.sent + load.per_message
    load.send()

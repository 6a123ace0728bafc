"""Workers come and go, and so does the broker; records do not."""

import os
import signal

import psutil
import pytest
from waiting import eventually

from devstack.firehose import fail, refuse_once


def test_sigterm_finishes_what_is_in_flight(idle_stack, hanging):
    audience = idle_stack.audience()
    idle_stack.firehose.faults.append(fail(hanging, times=1))
    with idle_stack.worker() as worker:
        idle_stack.send(*audience.added("secretive-in-flight"))
        eventually(audience.received)
        os.kill(worker.pid, signal.SIGTERM)
        eventually(lambda: "Warm shutdown" in worker.output())
        assert worker.is_running
        hanging.wait.set()
        eventually(lambda: not worker.is_running)
    assert idle_stack.services.counters.of(audience.stream).delivered == 1
    assert not idle_stack.unacknowledged()
    assert not audience.waiting()


def test_messages_that_a_killed_worker_had_in_flight_are_delivered_by_the_next(idle_stack, hanging):
    audience = idle_stack.audience()
    idle_stack.firehose.faults.append(fail(hanging, times=1))
    with idle_stack.worker() as worker:
        idle_stack.send(*audience.added("secretive-in-hand"))
        eventually(audience.received)
        worker.kill()
    idle_stack.expire_what_is_in_flight()
    with idle_stack.worker():
        eventually(lambda: idle_stack.services.counters.of(audience.stream).delivered == 1)
    assert audience.customers() == ["secretive-in-hand"] * 2


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_a_worker_without_processes_delivers_and_retries(idle_stack, pool):
    audience = idle_stack.audience()
    customers = [f"secretive-{number}" for number in range(12)]
    idle_stack.firehose.faults.append(refuse_once(b'7"'))
    soon = {"AUDIENCE_RETRY_BACKOFF": "1", "AUDIENCE_RETRY_BACKOFF_MAX": "1"}
    with idle_stack.worker("--pool", pool, "--concurrency", "12", env=soon) as worker:
        for customer in customers:
            idle_stack.send(*audience.added(customer))
        eventually(lambda: sorted(audience.customers()) == sorted(customers))
        assert worker.stop() == 0
    assert not idle_stack.unacknowledged()


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_a_worker_finds_its_streams_again_after_the_broker_was_away(idle_stack):
    flowing, paused = idle_stack.audience(), idle_stack.audience()
    idle_stack.services.circuit_breakers.pause(paused.stream, "operator")
    with idle_stack.worker() as worker:
        lose_the_broker(idle_stack)
        eventually(lambda: "Connection to broker lost" in worker.output())
        idle_stack.send(*flowing.added("secretive-1"), *paused.added("secretive-2"))
        eventually(flowing.received)
        idle_stack.send(*flowing.added("secretive-3"))
        eventually(lambda: len(flowing.received()) == 2)
        assert not paused.received()
        idle_stack.services.circuit_breakers.resume(paused.stream)
        eventually(paused.received)


def lose_the_broker(stack):
    """Cut every connection to the broker's database but our own, which kombu keeps for later stories."""
    client = stack.broker_client()
    own = {
        f"{found.laddr.ip}:{found.laddr.port}" for found in psutil.Process().net_connections() if found.laddr
    }
    for connection in client.client_list():
        if int(connection["db"]) == stack.databases[0] and connection["addr"] not in own:
            client.client_kill_filter(_id=connection["id"])

"""The broker fails over to a replica that is behind, while the state, another server, keeps what it has."""

import pytest
from redis import Redis
from stack import Stack
from waiting import eventually

from devstack import processes
from devstack.firehose import error, fail
from worker.flow.circuit_breakers import OPERATOR

CUSTOMERS = [f"customer-{number}" for number in range(20)]


@pytest.fixture
def two_servers(make_stack, tmp_path):
    """A stack whose broker is a Redis of its own."""
    state = make_stack()
    directory = tmp_path / "broker"
    directory.mkdir()
    with processes.redis(directory) as (_, url):
        yield Stack(tmp_path, state.redis_url, state.firehose, databases=(0, 1), broker_url=f"{url}/0")


@pytest.fixture
def broker(two_servers):
    return Redis.from_url(two_servers.broker_url)


@pytest.fixture
def audience(two_servers):
    two_servers.configure("main")
    return two_servers.audience()


def content(broker):
    """Everything that the broker holds: what a replica has that stops receiving now."""
    return {key: broker.dump(key) for key in broker.scan_iter()}


def roll_back(broker, before):
    """Put an earlier content in the place of the broker's: the replica is promoted."""
    broker.flushall()
    for key, value in before.items():
        broker.restore(key, 0, value)


def test_changes_whose_batches_are_lost_are_run_again_and_counted_once(two_servers, broker, audience):
    two_servers.services.circuit_breakers.pause(audience.stream, OPERATOR)
    two_servers.send(*audience.added(*CUSTOMERS))
    before = content(broker)
    with two_servers.worker():
        eventually(audience.waiting)
        eventually(lambda: two_servers.services.counters.of(audience.stream).enqueued == len(CUSTOMERS))

    roll_back(broker, before)
    assert audience.waiting() == 0
    two_servers.services.circuit_breakers.resume(audience.stream)

    with two_servers.worker():
        eventually(lambda: len(audience.customers()) == len(CUSTOMERS))
        counts = eventually(lambda: two_servers.services.counters.of(audience.stream))
    assert sorted(audience.customers()) == sorted(CUSTOMERS)
    assert counts.enqueued == len(CUSTOMERS)


def test_a_batch_whose_retry_is_lost_is_run_again(two_servers, broker, audience):
    breakers = two_servers.services.circuit_breakers
    breakers.pause(audience.stream, OPERATOR)
    two_servers.send(*audience.added(*CUSTOMERS))
    with two_servers.worker():
        eventually(audience.waiting)
    before = content(broker)
    two_servers.firehose.faults.append(fail(error("ServiceUnavailableException", 503)))
    breakers.resume(audience.stream)
    with two_servers.worker(env={"AUDIENCE_RETRY_MAX": "1000"}):
        eventually(lambda: two_servers.services.counters.of(audience.stream).retrying)

    roll_back(broker, before)
    two_servers.firehose.faults.clear()
    breakers.resume(audience.stream)

    with two_servers.worker():
        eventually(lambda: len(audience.customers()) == len(CUSTOMERS))
    assert sorted(audience.customers()) == sorted(CUSTOMERS)


def test_what_the_broker_still_holds_is_not_run_again(two_servers, broker, audience):
    two_servers.send(*audience.added(*CUSTOMERS), task_id="same")
    with two_servers.worker():
        eventually(lambda: len(audience.customers()) == len(CUSTOMERS))
        two_servers.send(*audience.added(*CUSTOMERS), task_id="same")
        two_servers.send(*audience.added("another"))
        eventually(lambda: "another" in audience.customers())
    assert sorted(audience.customers()) == sorted([*CUSTOMERS, "another"])

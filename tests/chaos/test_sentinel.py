"""Redis Sentinel: the master is killed under load, and its replica takes over."""

import time
from contextlib import nullcontext

import pytest
from chaos import CONCURRENCY, HASTE, PATIENT, RECORDS
from confirming_caller import confirm_messages
from kombu.exceptions import OperationalError
from kombu.transport import redis as kombu_redis
from load import Load
from redis.exceptions import RedisError
from sentinel import Replicated, Security
from sentineled import Sentineled
from tls import Certificate
from waiting import eventually

from devstack import processes
from devstack.firehose import FakeFirehose, error, fail

NOT_CONFIRMED = "TooFewReplicas: the message is requeued"
WAIT_REPLICAS = "AUDIENCE_REDIS_WAIT_REPLICAS"


@pytest.fixture
def replicated(tmp_path):
    replicated = Replicated(tmp_path)
    yield replicated
    replicated.stop()


@pytest.fixture
def two_replicas(tmp_path):
    """A replica more than writes wait for: the master after a failover has one as well."""
    replicated = Replicated(tmp_path, replicas=2)
    yield replicated
    replicated.stop()


@pytest.fixture
def secured(tmp_path):
    """The same, where servers and sentinel ask for TLS and a password each."""
    replicated = Replicated(tmp_path, security=Security(Certificate(tmp_path), "p@ss", "s&ntinel"))
    yield replicated
    replicated.stop()


@pytest.fixture
def make_stack(tmp_path):
    """A stack over the master that a sentinel names."""
    with FakeFirehose() as firehose:

        def make(replicated, broker_url=None):
            stack = Sentineled(
                tmp_path, replicated.url, firehose, (0, 1), broker_url=broker_url, query=replicated.query
            )
            stack.configure("main")
            return stack

        yield make


def test_servers_and_sentinels_that_ask_for_tls_and_passwords_fail_over(make_stack, secured):
    stack = make_stack(secured)
    audience = stack.audience()
    with stack.worker("--concurrency", "2", env=HASTE) as worker:
        stack.send(*audience.added("before"))
        eventually(lambda: audience.customers() == ["before"])
        secured.wait_for_replica()
        secured.fail_over()
        eventually(lambda: is_sent(stack, *audience.added("after")), every=0.1)
        eventually(lambda: set(audience.customers()) == {"before", "after"})
        assert worker.is_running
        shown = worker.output() + repr(stack.inspect("conf"))
        assert not any(secret in shown for secret in ("p@ss", "p%40ss", "s&ntinel", "s%26ntinel"))
        worker.kill()


@pytest.fixture
def confirming(monkeypatch):
    """Have callers in this process wait for a replica, by the lines of the documentation."""
    monkeypatch.setattr(kombu_redis.Channel, "_put", kombu_redis.Channel._put)
    return confirm_messages


@pytest.mark.parametrize("confirms", [False, True])
def test_a_master_that_is_killed_ahead_of_its_replicas_loses_what_no_replica_has_confirmed(
    make_stack, two_replicas, confirming, confirms
):
    stack = make_stack(two_replicas)
    load = Load(stack.audience(), RECORDS)
    if confirms:
        confirming()
    load.send(RECORDS // 2)
    two_replicas.wait_for_replica(2)
    with two_replicas.cut_off():
        with pytest.raises(RuntimeError) if confirms else nullcontext():
            load.send(load.per_message)
        two_replicas.kill_master()
    eventually(two_replicas.is_failed_over)
    load.send()
    with stack.worker("--concurrency", "2", env=HASTE | PATIENT | {WAIT_REPLICAS: "1"}) as worker:
        eventually(lambda: load.arrived() >= RECORDS - load.per_message)
        load.settle()
        worker.kill()
    assert (load.sent, load.lost, load.repeated) == (RECORDS, 0 if confirms else load.per_message, 0)


def test_failovers_under_load_lose_nothing_that_replicas_have_confirmed(
    make_stack, two_replicas, confirming, tell
):
    stack = make_stack(two_replicas)
    load = Load(stack.audience(), RECORDS, refused_by=(OperationalError, RedisError, RuntimeError))
    confirming()
    with stack.worker("--concurrency", str(CONCURRENCY), env=HASTE | {WAIT_REPLICAS: "1"}) as worker:
        with load.sending(RECORDS // 2):
            eventually(lambda: load.arrived() > 0)
            began = time.monotonic()
            two_replicas.fail_over()
        before = load.arrived()
        load.send()
        eventually(lambda: load.arrived() > before)
        flows = time.monotonic() - began
        load.arrive()
        load.settle()
        tell(load, f"SENTINEL FAILOVER, flows after {flows:.1f} s", allowed=RECORDS // 2)
        assert load.sent == RECORDS
        assert worker.is_running
        worker.kill()


@pytest.fixture
def broker_url(tmp_path):
    """A broker on a server of its own."""
    (tmp_path / "broker").mkdir()
    with processes.redis(tmp_path / "broker") as (_, url):
        yield f"{url}/0"


@pytest.mark.parametrize("confirms", [False, True])
def test_a_dead_letter_that_no_replica_has_outlives_the_master_only_where_it_was_to_be_confirmed(
    make_stack, two_replicas, broker_url, confirms
):
    stack = make_stack(two_replicas, broker_url)
    audience = stack.audience()
    two_replicas.wait_for_replica(2)
    stack.firehose.faults.append(fail(error("ResourceNotFoundException")))
    with stack.worker("--concurrency", "2", env=HASTE | {WAIT_REPLICAS: str(int(confirms))}) as worker:
        with two_replicas.cut_off():
            stack.send(*audience.added("refused"))
            eventually(audience.letters)
            eventually(lambda: stack.broker_client().hlen("unacked") == 0 or NOT_CONFIRMED in worker.output())
            two_replicas.kill_master()
        eventually(two_replicas.is_failed_over)
        stored_again = eventually(audience.letters) if confirms else audience.letters()
        worker.kill()
    assert (len(stored_again), audience.customers()) == (int(confirms), [])


def is_sent(stack, *changes):
    """Send changes; False where the broker does not take them now."""
    try:
        stack.send(*changes)
    except (OperationalError, RedisError):
        return False
    return True


def test_the_master_is_killed_under_load(make_stack, replicated, tell):
    stack = make_stack(replicated)
    load = Load(stack.audience(), RECORDS)
    with stack.worker("--concurrency", str(CONCURRENCY), env=HASTE) as worker:
        load.send(RECORDS // 2)
        eventually(lambda: load.arrived() > 0)
        # Replication is asynchronous: what the replica does not have goes with the master.
        replicated.wait_for_replica()
        replicated.kill_master()
        killed = time.monotonic()
        load.send()
        accepted = time.monotonic() - killed
        assert replicated.is_failed_over()
        load.arrive()
        load.settle()
        tell(load, f"master killed, accepted after {accepted:.1f} s", allowed=RECORDS // 2)
        assert worker.is_running
        worker.kill()

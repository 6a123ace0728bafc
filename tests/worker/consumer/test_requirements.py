"""A worker refuses to start, with the reason, where it would not deliver messages."""

import socket
from types import SimpleNamespace

import pytest
from celery import Celery
from redis import Redis

from devstack import processes
from worker.broker.redis.transport import register_redis_transport
from worker.consumer.requirements import problem_of

CLUSTER_BUS_OFFSET = 10_000

AWAY = f"redis://127.0.0.1:{processes.free_port()}"


def worker(url, pool="prefork", state_url=None, **options):
    """What the check reads of a worker. Its state is on its broker unless it is said where."""
    app = Celery("some-app", broker=url, set_as_current=False)
    state_url = state_url or (url if url.startswith("redis:") else AWAY)
    app.services = SimpleNamespace(
        redis=Redis.from_url(state_url, retry=None), settings=SimpleNamespace(redis_wait_replicas=0)
    )
    app.conf.broker_transport_options = options
    pool_cls = type("TaskPool", (), {"__module__": f"celery.concurrency.{pool}"})
    return SimpleNamespace(app=app, pool_cls=pool_cls)


@pytest.fixture(autouse=True)
def transport():
    register_redis_transport()


def test_a_worker_on_a_plain_redis_may_start(real_redis_url):
    assert problem_of(worker(real_redis_url)) is None


@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_a_pool_that_would_deliver_nothing_is_refused(pool, real_redis_url):
    assert problem_of(worker(real_redis_url, pool)).startswith(f"-P {pool}: ")


@pytest.mark.parametrize("url", ["sqs://", "memory://", "nonsense://host"])
def test_a_broker_that_nothing_is_promised_for_is_refused(url):
    problem = problem_of(worker(url))
    assert "redis://, rediss://" in problem
    assert "\n" not in problem


def test_a_global_key_prefix_is_refused(real_redis_url):
    assert "global_keyprefix" in problem_of(worker(real_redis_url, global_keyprefix="x"))


def cluster_port():
    """A free port whose cluster bus, 10,000 above it, is free as well."""
    for _ in range(50):
        port = processes.free_port()
        with socket.socket() as bus:
            try:
                bus.bind((processes.LOOPBACK, port + CLUSTER_BUS_OFFSET))
            except (OSError, OverflowError):
                continue
            return port
    raise AssertionError("no pair of free ports")


def test_a_redis_cluster_is_refused(tmp_path):
    with processes.redis(tmp_path, "--cluster-enabled", "yes", port=cluster_port()) as (_, url):
        assert "Redis Cluster" in problem_of(worker(url))


def test_a_broker_that_is_away_is_left_to_celerys_reconnecting():
    assert problem_of(worker(f"redis://127.0.0.1:{processes.free_port()}")) is None


@pytest.fixture
def evicting(tmp_path):
    options = ("--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lru")
    with processes.redis(tmp_path, *options) as (_, url):
        yield url


def test_a_broker_that_evicts_is_refused(evicting):
    problem = problem_of(worker(evicting))
    assert "CELERY_BROKER_URL" in problem
    assert "noeviction" in problem


def test_a_state_that_evicts_is_refused(evicting, real_redis_url):
    assert "AUDIENCE_REDIS_URL" in problem_of(worker(real_redis_url, state_url=evicting))


def test_what_may_pass_is_a_warning_and_the_worker_starts(tmp_path, caplog):
    with processes.redis(tmp_path, "--appendonly", "no") as (_, url):
        assert problem_of(worker(url)) is None
    assert "broker: persistence: appendonly no" in caplog.text
    assert "state: persistence: appendonly no" in caplog.text

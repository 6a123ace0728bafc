"""A worker refuses to start, with the reason, where it would not deliver messages."""

from types import SimpleNamespace

import pytest
from celery import Celery
from cluster import bus_port
from redis import Redis

from devstack import processes
from worker.broker.redis.transport import register_redis_transport
from worker.consumer.start.requirements import problem_of, warn_about_strange_queues
from worker.store.connections import connect_redis

AWAY = f"redis://127.0.0.1:{processes.free_port()}"


def worker(url, pool="prefork", state_url=None, **options):
    """The part of a worker that the check reads. Its state is on its broker unless it is said where."""
    app = Celery("some-app", broker=url, set_as_current=False)
    state_url = state_url or (url if url.startswith("redis:") else AWAY)
    app.services = SimpleNamespace(
        redis=Redis.from_url(state_url, retry=None), settings=SimpleNamespace(redis_wait_replicas=0)
    )
    app.conf.broker_transport_options = options
    pool_cls = type("TaskPool", (), {"__module__": f"celery.concurrency.{pool}"})
    return SimpleNamespace(app=app, pool_cls=pool_cls, time_limit=None, soft_time_limit=None)


@pytest.fixture(autouse=True)
def transport():
    register_redis_transport()


@pytest.mark.parametrize("pool", ["prefork", "solo", "thread"])
def test_a_worker_on_a_plain_redis_may_start(pool, real_redis_url):
    assert problem_of(worker(real_redis_url, pool)) is None


@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_a_pool_that_would_deliver_nothing_is_refused(pool, real_redis_url):
    assert problem_of(worker(real_redis_url, pool)).startswith(f"-P {pool}: ")


@pytest.mark.parametrize("option", ["time_limit", "soft_time_limit"])
def test_a_time_limit_that_would_end_a_delivery_in_the_middle_is_refused(option, real_redis_url):
    limited = worker(real_redis_url)
    setattr(limited, option, 60)
    assert problem_of(limited).startswith("--time-limit and --soft-time-limit: ")


def test_threads_that_would_share_a_connection_to_rabbitmq_are_refused():
    assert problem_of(worker("amqp://nowhere.invalid", "thread")).startswith("-P threads: ")


@pytest.mark.parametrize("url", ["sqs://", "memory://", "nonsense://host"])
def test_a_broker_that_nothing_is_promised_for_is_refused(url):
    problem = problem_of(worker(url))
    assert "redis://, rediss://" in problem
    assert "\n" not in problem


def test_a_global_key_prefix_is_refused(real_redis_url):
    assert "global_keyprefix" in problem_of(worker(real_redis_url, global_keyprefix="x"))


def test_a_redis_cluster_is_refused_as_the_broker(tmp_path):
    with processes.redis(tmp_path, "--cluster-enabled", "yes", port=bus_port()) as (_, url):
        assert "Redis Cluster" in problem_of(worker(url))


def on_cluster(worker, state_url):
    worker.app.services.redis = connect_redis(state_url)
    return worker


def test_a_redis_cluster_may_hold_the_state(real_redis_url, redis_cluster):
    assert problem_of(on_cluster(worker(real_redis_url), redis_cluster.url)) is None


def test_a_database_that_a_cluster_does_not_have_is_refused(real_redis_url, redis_cluster):
    problem = problem_of(on_cluster(worker(real_redis_url), f"{redis_cluster.url}/1"))
    assert problem.startswith("the state (AUDIENCE_REDIS_URL): cluster mode: ")
    assert problem.endswith("end with /0.")


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


def test_a_queue_that_nothing_is_sent_to_is_a_warning(caplog):
    warn_about_strange_queues(["audience.changes", "firehose.main.us-east-1.travel", "nosuchqueue"])
    (line,) = caplog.messages
    assert line.startswith(
        "-Q nosuchqueue: no change and no batch comes by this queue; those are audience.changes"
    )


def test_what_may_pass_is_a_warning_and_the_worker_starts(tmp_path, caplog):
    with processes.redis(tmp_path, "--appendonly", "no") as (_, url):
        assert problem_of(worker(url)) is None
    assert "broker: persistence: appendonly no" in caplog.text
    assert "state: persistence: appendonly no" in caplog.text

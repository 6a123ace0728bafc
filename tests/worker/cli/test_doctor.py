"""`audience-firehose doctor`: what is wrong with the servers, and the exit status."""

import json
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from celery import Celery
from click.testing import CliRunner

from devstack.processes import free_port
from worker.broker.redis.transport import register_redis_transport
from worker.cli import doctor as module
from worker.cli import main
from worker.store.connections import connect_redis


@pytest.fixture
def examine(monkeypatch):
    """Give the command over a broker and a state."""
    register_redis_transport()

    def examine(broker_url, state_url, *options, wait_replicas=0):
        app = Celery("some-app", broker=broker_url, set_as_current=False)
        settings = SimpleNamespace(
            broker_url=broker_url, redis_url=state_url, redis_wait_replicas=wait_replicas
        )
        app.services = SimpleNamespace(redis=connect_redis(state_url), settings=settings)
        monkeypatch.setattr(module, "application", lambda: app)
        return CliRunner().invoke(main, ["doctor", *options])

    return examine


def test_servers_that_are_well_are_a_line_for_each_check_and_success(examine, real_redis, real_redis_url):
    result = examine(f"{real_redis_url}/0", f"{real_redis_url}/1")
    assert result.exit_code == 0, result.output
    _, *lines = result.stdout.splitlines()
    assert {tuple(line.split()[:1]) for line in lines} == {("broker",), ("state",)}
    assert len(lines) == 12


def test_each_server_is_named_with_the_variable_that_leads_to_it(examine, real_redis, real_redis_url):
    address = urlsplit(real_redis_url).netloc
    result = examine(f"{real_redis_url}/0", f"{real_redis_url}/1")
    assert f"broker: {address}, of CELERY_BROKER_URL" in result.stderr
    assert f"state: {address}, of AUDIENCE_REDIS_URL" in result.stderr


def test_a_failed_check_ends_with_status_1_and_says_what_to_do(examine, real_redis, real_redis_url):
    real_redis.config_set("maxmemory", "1gb")
    real_redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        result = examine(real_redis_url, real_redis_url, "--json")
    finally:
        real_redis.config_set("maxmemory-policy", "noeviction")
    rows = [json.loads(line) for line in result.output.splitlines()]
    failed = [row for row in rows if row["result"] == "failed"]
    assert result.exit_code == 1
    assert [row["id"] for row in failed] == ["broker:maxmemory-policy", "state:maxmemory-policy"]
    assert all("set maxmemory-policy to noeviction" in row["message"] for row in failed)


def test_a_server_that_is_away_is_a_failed_check_beside_the_others(examine, real_redis, real_redis_url):
    away = f"redis://127.0.0.1:{free_port()}"
    result = examine(away, real_redis_url, "--json")
    rows = [json.loads(line) for line in result.output.splitlines()]
    assert result.exit_code == 1
    assert [row["check"] for row in rows if row["result"] == "failed"] == ["connection"]
    assert len(rows) == 7


def test_a_server_with_fewer_replicas_than_are_waited_for_fails(examine, real_redis, real_redis_url):
    result = examine(real_redis_url, real_redis_url, "--json", wait_replicas=1)
    failed = [row for row in map(json.loads, result.output.splitlines()) if row["result"] == "failed"]
    assert result.exit_code == 1
    assert [row["id"] for row in failed] == ["broker:replication", "state:replication"]
    assert all("AUDIENCE_REDIS_WAIT_REPLICAS asks for 1" in row["message"] for row in failed)


def test_the_state_may_be_on_a_cluster_and_the_broker_not(examine, real_redis, real_redis_url, redis_cluster):
    well = examine(real_redis_url, redis_cluster.url)
    assert well.exit_code == 0, well.output
    assert "Redis Cluster of 3 masters" in well.output
    wrong = examine(redis_cluster.url, redis_cluster.url, "--json")
    rows = [json.loads(line) for line in wrong.output.splitlines()]
    assert [row["id"] for row in rows if row["result"] == "failed"] == ["broker:cluster mode"]

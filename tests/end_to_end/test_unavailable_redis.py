"""A Redis that accepts no write: a worker reconnects until it does, and goes on."""

import pytest
from redis import Redis
from stack import Stack
from waiting import eventually

from devstack.firehose import FakeFirehose

DATABASES = (8, 9)
LOST = "Connection to broker lost"


@pytest.fixture
def direct(tmp_path, redis_url):
    """A stack over empty databases of the server."""
    with FakeFirehose() as firehose:
        stack = Stack(tmp_path, redis_url, firehose, DATABASES)
        for database in DATABASES:
            with Redis.from_url(f"{redis_url}/{database}") as client:
                client.flushdb()
        stack.configure("main")
        yield stack


def test_a_worker_goes_on_after_its_redis_has_accepted_no_write(direct, redis_url):
    audience = direct.audience()
    with Redis.from_url(redis_url) as server, direct.worker("--concurrency", "2") as worker:
        direct.send(*audience.added("before"))
        eventually(lambda: audience.customers() == ["before"])
        try:
            server.config_set("min-replicas-to-write", 1)
            eventually(lambda: LOST in worker.output())
            # What the server counts as refused are the attempts of the worker's main process alone.
            refused = refusals(server)
            eventually(lambda: refusals(server) >= refused + 3)
        finally:
            server.config_set("min-replicas-to-write", 0)
        direct.send(*audience.added("after"))
        eventually(lambda: audience.customers() == ["before", "after"])
        assert worker.is_running
        assert worker.output().count(LOST) == 1
        assert "CRITICAL" not in worker.output()
        assert [alert.error_code for alert in direct.services.alerts.all()] == ["NOREPLICAS"]


def refusals(server):
    """How often the server has refused a write for want of replicas."""
    return server.info("errorstats").get("errorstat_NOREPLICAS", {}).get("count", 0)

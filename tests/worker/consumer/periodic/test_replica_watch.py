"""Operators are alerted of replicas that do not keep up, where writes wait for them."""

from types import SimpleNamespace

import pytest
from redis.exceptions import ConnectionError

from worker.consumer.periodic import replica_watch
from worker.consumer.periodic.replica_watch import ReplicaWatch


def info(*lags, state="online"):
    """The answer of a master with replicas."""
    return {"connected_slaves": len(lags)} | {
        f"slave{number}": {"state": state, "lag": lag} for number, lag in enumerate(lags)
    }


class Server:
    """A Redis that tells of its replicas, or is away."""

    def __init__(self, replication):
        self.replication = replication

    def info(self, section):
        if self.replication is None:
            raise ConnectionError
        return self.replication


@pytest.fixture
def check(services, monkeypatch):
    """Check servers with these replicas, where one is waited for. Returns the alerts' error codes."""
    monkeypatch.setattr(services, "settings", SimpleNamespace(redis_wait_replicas=1))
    consumer = SimpleNamespace(app=SimpleNamespace(services=services))
    watch = ReplicaWatch(SimpleNamespace(app=consumer.app))

    def check(*replications):
        monkeypatch.setattr(replica_watch, "servers", lambda _: map(Server, replications))
        watch.check(consumer)
        return [(alert.type, alert.error_code) for alert in services.alerts.all()]

    return check


def test_no_alert_is_raised_while_each_server_has_a_replica_that_keeps_up(check):
    assert check(info(0), info(1, 300)) == []


@pytest.mark.parametrize("behind", [info(), info(11), info(0, state="wait_bgsave")])
def test_a_server_without_a_replica_raises_one_alert(check, behind):
    check(info(0), behind)
    assert check(info(0), behind) == [("Worker Trouble", "TooFewReplicas")]


def test_a_server_that_is_away_raises_none(check):
    assert check(None) == []


@pytest.mark.parametrize(("replicas", "included"), [(0, False), (1, True)])
def test_it_watches_only_where_replicas_are_waited_for(services, replicas, included):
    services = SimpleNamespace(settings=SimpleNamespace(redis_wait_replicas=replicas))
    consumer = SimpleNamespace(app=SimpleNamespace(services=services))
    assert ReplicaWatch(consumer).include_if(consumer) is included

"""A master and its replica, for what waits until replicas confirm."""

import pytest
from replication import replication

from worker.store import replicas


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    with replication(tmp_path_factory.mktemp("replication")) as pair:
        yield pair


@pytest.fixture
def master(pair):
    pair.client.flushall()
    return pair.client


@pytest.fixture
def frozen(pair, monkeypatch):
    """The replica hangs."""
    monkeypatch.setattr(replicas, "CONFIRM_TIMEOUT_MILLISECONDS", 50)
    with pair.frozen():
        yield

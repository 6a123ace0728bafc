"""The state on a Redis Cluster, the broker on a Redis: the state's master is killed, its slot migrates."""

import os
import signal
import time

import pytest
from chaos import CONCURRENCY, HASTE, PATIENT, RECORDS, Broker
from cluster import MASTERS, RedisCluster
from load import Load
from stack import Stack
from waiting import eventually

from devstack.firehose import FakeFirehose


@pytest.fixture
def replicas():
    """How many replicas the master of the state has."""
    return 1


@pytest.fixture
def cluster(tmp_path, replicas):
    cluster = RedisCluster(tmp_path, replicas=replicas)
    yield cluster
    cluster.stop()


@pytest.fixture
def stack(tmp_path, cluster):
    broker = Broker(tmp_path)
    with FakeFirehose() as firehose:
        stack = Stack(tmp_path, broker.url, firehose, databases=(0, 0), state_url=cluster.urls)
        stack.configure("main")
        yield stack
    broker.stop()


def test_the_master_of_the_state_is_killed_under_load(stack, cluster, tell):
    load = Load(stack.audience(), RECORDS)
    with stack.worker("--concurrency", str(CONCURRENCY), env=HASTE) as worker:
        load.send(RECORDS // 2)
        eventually(lambda: load.arrived() > 0)
        # Replication is asynchronous: what the replica does not have goes with the master.
        assert cluster.client(0).wait(1, 5000) == 1
        cluster.nodes[0].kill()
        killed, before = time.monotonic(), load.arrived()
        load.send()
        eventually(lambda: load.arrived() > before + load.per_message * CONCURRENCY)
        flows_again = time.monotonic() - killed
        load.arrive()
        load.settle()
        tell(load, f"state's master killed, flows after {flows_again:.1f} s", allowed=RECORDS // 2)
        assert worker.is_running
        worker.kill()


def test_the_master_of_the_state_hangs_and_its_replica_takes_over_late(stack, cluster, tell):
    load = Load(stack.audience(), RECORDS)
    with stack.worker("--concurrency", str(CONCURRENCY), env=HASTE) as worker:
        load.send(RECORDS // 2)
        eventually(lambda: load.arrived() > 0)
        assert cluster.client(0).wait(1, 5000) == 1
        for number in (MASTERS, 0):
            os.kill(cluster.nodes[number].pid, signal.SIGSTOP)
        load.send()
        eventually(lambda: worker.output().count("cannot read the registry") >= 2)
        os.kill(cluster.nodes[MASTERS].pid, signal.SIGCONT)
        resumed, before = time.monotonic(), load.arrived()
        eventually(lambda: load.arrived() > before)
        flows_again = time.monotonic() - resumed
        # While the former master hangs, it cannot take the alert with what it loses.
        eventually(lambda: cluster.client(MASTERS).keys("*:alerts"))
        # It finds another master in its place, and becomes its replica.
        os.kill(cluster.nodes[0].pid, signal.SIGCONT)
        load.arrive()
        load.settle()
        tell(load, f"state's master hangs, flows {flows_again:.1f} s after it may", allowed=RECORDS // 2)
        assert "StateUnavailable" in {alert.error_code for alert in stack.services.alerts.all()}
        assert worker.is_running
        worker.kill()


@pytest.mark.parametrize("replicas", [0])
def test_the_slot_of_the_state_migrates_under_load(stack, cluster, tell):
    load = Load(stack.audience(), RECORDS)
    with stack.worker("--concurrency", str(CONCURRENCY), env=HASTE | PATIENT) as worker:
        load.send(RECORDS // 2)
        eventually(lambda: load.arrived() > 0)
        cluster.migrate(2)
        load.send()
        load.arrive()
        settled = load.settle()
        tell(load, "the state's slot migrates to another master", allowed=0)
        assert (settled.counts.enqueued, settled.counts.delivered) == (load.sent, load.sent)
        worker.kill()

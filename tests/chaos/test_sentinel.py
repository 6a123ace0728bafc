"""Redis Sentinel: the master is killed under load, and its replica takes over."""

import time

import pytest
from chaos import CONCURRENCY, HASTE, RECORDS
from load import Load
from sentinel import MASTER, Replicated
from stack import Stack
from waiting import eventually

from devstack.firehose import FakeFirehose


@pytest.fixture
def replicated(tmp_path):
    replicated = Replicated(tmp_path)
    yield replicated
    replicated.stop()


@pytest.fixture
def stack(tmp_path, replicated):
    with FakeFirehose() as firehose:
        stack = Sentineled(tmp_path, replicated.url, firehose, databases=(0, 1))
        stack.caller.conf.broker_url = f"{replicated.url}/0"
        stack.caller.conf.broker_transport_options = {"master_name": MASTER}
        stack.configure("main")
        yield stack


class Sentineled(Stack):
    """A stack whose broker and state are the databases of a master."""

    @property
    def environment(self):
        urls = {
            name: f"{self.redis_url}/{database}?master_name={MASTER}"
            for name, database in zip(
                ("CELERY_BROKER_URL", "AUDIENCE_REDIS_URL"), self.databases, strict=True
            )
        }
        return super().environment | urls


def test_the_master_is_killed_under_load(stack, replicated, tell):
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

"""The state on a Redis Cluster: what operators do and see works as on any Redis."""

import json
import subprocess
from urllib.request import urlopen

import pytest
from stack import Stack
from waiting import eventually

from devstack import processes
from devstack.firehose import FakeFirehose, error, fail
from devstack.ports import free_port
from worker.store.cluster import KEY_PREFIX

LISTINGS = ("status", "alerts", "dead-letters", "doctor")
PAGES = ("/", "/broker", "/streams", "/alerts", "/dead-letters", "/metrics")


@pytest.fixture
def stack(tmp_path, redis_cluster):
    """A stack without a worker, whose broker is a Redis."""
    redis_cluster.flush()
    with processes.redis(tmp_path) as (_, url), FakeFirehose() as firehose:
        stack = Stack(tmp_path, url, firehose, databases=(0, 0), state_url=redis_cluster.url)
        stack.configure("main")
        yield stack


def run(stack, *arguments):
    """The lines of an operator's command, read as JSON where they are."""
    command = processes.installed(["audience-firehose", *arguments])
    env = processes.private_environment(stack.environment)
    output = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def page(port, path):
    with urlopen(f"http://{processes.LOOPBACK}:{port}{path}") as answer:
        return answer.read().decode()


def test_records_are_delivered_and_dead_letters_replayed(stack, redis_cluster, tmp_path):
    well, refused = stack.audience(), stack.audience()
    stack.firehose.faults.append(fail(error("ResourceNotFoundException"), stream=refused.stream.name))
    with stack.worker("--concurrency", "1"):
        stack.send(*well.added("first", "second"))
        stack.send(*refused.added("third"))
        eventually(lambda: well.customers() == ["first", "second"])
        (letter,) = eventually(refused.letters)

        listed = {name: run(stack, name, "--json") for name in LISTINGS}
        assert [row["type"] for row in listed["alerts"]] == ["Stream Not Found"]
        assert {row["result"] for row in listed["doctor"] if row["server"] == "state"} == {"ok"}
        with processes.dashboard(tmp_path / "dashboard.log", stack.environment, port := free_port()):
            shown = {path: page(port, path) for path in PAGES}
        assert letter.id in shown["/dead-letters"]
        assert refused.stream.name in shown["/streams"]
        assert "Stream Not Found" in shown["/alerts"]
        assert "audience_firehose" in shown["/metrics"]

        stack.firehose.faults.clear()
        run(stack, "resume", refused.connection_id)
        run(stack, "replay", letter.id)
        eventually(lambda: refused.customers() == ["third"])
    assert refused.letters() == []
    owner = redis_cluster.client(redis_cluster.owner())
    assert all(key.startswith(KEY_PREFIX) for key in owner.scan_iter())

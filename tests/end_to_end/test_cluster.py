"""The state on a Redis Cluster: what operators do and see works as on any Redis."""

import json
import re
import subprocess
from urllib.request import urlopen

import pytest
from cluster import MASTERS
from stack import Stack
from waiting import eventually
from warm_start import warm_start

from devstack import processes
from devstack.firehose import FakeFirehose, error, fail
from devstack.ports import free_port
from worker.store.cluster import KEY_PREFIX

DOCUMENT = (processes.ROOT / "docs/high-availability.md").read_text("utf-8")
RULES = re.compile(r"^ACL SETUSER worker (.+)$", re.MULTILINE)
LISTINGS = ("status", "alerts", "dead-letters", "doctor")
PAGES = ("/", "/broker", "/streams", "/alerts", "/dead-letters", "/metrics")


@pytest.fixture
def nodes(redis_cluster):
    """The masters' clients. The worker's user has the documented permissions."""
    redis_cluster.flush()
    nodes = [redis_cluster.client(number) for number in range(MASTERS)]
    for node in nodes:
        node.execute_command("ACL", "SETUSER", "worker", "reset")
        for rules in RULES.findall(DOCUMENT.replace("\\\n", "")):
            node.execute_command("ACL", "SETUSER", "worker", *rules.split())
        node.acl_log_reset()
    yield nodes
    for node in nodes:
        node.acl_deluser("worker")


@pytest.fixture
def stack(tmp_path, redis_cluster, nodes):
    """A stack without a worker, whose broker is a Redis; it uses the cluster as the documented user."""
    state_url = redis_cluster.url.replace("redis://", "redis://worker:secret@")
    with processes.redis(tmp_path) as (_, url), FakeFirehose() as firehose:
        stack = Stack(tmp_path, url, firehose, databases=(0, 0), state_url=state_url)
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


def test_records_are_delivered_and_dead_letters_replayed(stack, nodes, tmp_path):
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
        log, port = tmp_path / "dashboard.log", free_port()
        with processes.dashboard(log, stack.environment, port, warm_start):
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
    keys = [key for node in nodes for key in node.scan_iter()]
    assert keys
    assert all(key.startswith(KEY_PREFIX) for key in keys)
    assert [node.execute_command("ACL", "LOG") for node in nodes] == [[], [], []]

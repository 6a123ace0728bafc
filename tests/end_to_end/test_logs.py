"""The log lines of a running worker and of the dashboard."""

import json

from waiting import eventually
from warm_start import warm_start

from devstack import processes
from devstack.firehose import error, fail, refuse_once
from devstack.ports import free_port

JSON = {"AUDIENCE_LOG_FORMAT": "json"}


def lines(process):
    """Each line of what a process has written, as the object that it is."""
    return [json.loads(line) for line in process.output().splitlines()]


def test_every_line_of_a_worker_is_json_from_its_start_to_its_end(idle_stack):
    audience, denied = idle_stack.audience(), idle_stack.audience()
    idle_stack.firehose.faults.append(refuse_once(b"secretive-2"))
    idle_stack.firehose.faults.append(fail(error("AccessDeniedException"), stream=denied.stream.name))
    with idle_stack.worker("--loglevel", "DEBUG", "--concurrency", "1", env=JSON) as worker:
        idle_stack.send(*audience.added("secretive-1", "secretive-2"), *denied.added("secretive-3"))
        eventually(lambda: len(audience.received()) == 2)
        eventually(denied.letters)
        eventually(lambda: f"{denied.stream.queue}: paused" in worker.output())
        worker.stop()
        found = lines(worker)
    about = [line for line in found if line.get("stream") == audience.stream.queue]
    assert [line["level"] for line in about if line["logger"] == "tasks.deliver"] == ["warning", "debug"]
    assert all(line["aws_request_id"] for line in about if line["logger"] == "tasks.deliver")
    assert any("dead letter" in line["message"] for line in found if line["level"] == "warning")
    assert "secretive" not in worker.output()
    assert "[tasks]" not in worker.output()


def test_every_line_of_the_dashboard_is_json(idle_stack, tmp_path):
    started = processes.dashboard(tmp_path / "log", idle_stack.environment | JSON, free_port(), warm_start)
    with started as dashboard:
        eventually(lambda: "broker: " in dashboard.output())
        dashboard.stop()
        assert {line["level"] for line in lines(dashboard)} <= {"info", "warning"}

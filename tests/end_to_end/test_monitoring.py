"""Sentry and OpenTelemetry, installed as their documentation says, are sent no identity value."""

import os
from pathlib import Path

import pytest
from leaks import leaks
from waiting import eventually

from devstack import processes
from devstack.firehose import error, fail
from monitoring import MONITORING

on_redis = pytest.mark.parametrize("broker", ["redis"], indirect=True)
FAKES = Path(__file__).parents[1] / "fakes"
LETTERS = 5
"""Dead letters of the story, each of another kind."""


@pytest.fixture
def sent(tmp_path):
    """All that a worker has sent, by the beginning of the files' names."""
    return lambda kind: "".join(file.read_text(errors="replace") for file in tmp_path.glob(f"{kind}-*"))


@pytest.fixture
def monitored(idle_stack, tmp_path):
    """A worker with Sentry and OpenTelemetry."""
    env = {
        **idle_stack.environment,
        "PYTHONPATH": f"{FAKES}{os.pathsep}{MONITORING}",
        "MONITORED": str(tmp_path),
    }
    log = idle_stack.directory / "monitored.log"
    idle_stack.logs.append(log)
    with processes.worker(log, env, "--concurrency", "1", "--without-mingle", app="monitored") as worker:
        yield processes.wait_for_worker(worker)


@on_redis
def test_no_event_and_no_span_shows_an_identity(idle_stack, monitored, sent):
    audience, failing = idle_stack.audience(), idle_stack.audience()
    idle_stack.firehose.faults.append(fail(error("InternalFailure", 500), stream=failing.stream.name))
    idle_stack.send(*audience.added("secretive-1"))
    idle_stack.send(*failing.added("secretive-2"))
    idle_stack.send(audience.added_user(CustomerId="secretive" + "x" * 2 * 10**6))
    idle_stack.send({**audience.added("secretive-3")[0], "secretive": "secretive-4"})
    idle_stack.push_raw("audience.changes", b'["secretive-5"]', task="secretive-task")
    idle_stack.call("audience.forward", {"changes": "secretive-6"})
    eventually(lambda: len(idle_stack.services.dead_letters.all()) == LETTERS)
    eventually(audience.received)
    assert monitored.stop() == 0
    events, spans = sent("sentry"), sent("spans")
    assert all(shown in events for shown in ("celery-job", "db.redis", "queue.task.celery", "stacktrace"))
    assert all(shown in spans for shown in ("Firehose.PutRecordBatch", "run/audience.deliver.us-east-1"))
    assert not leaks(events)
    assert not leaks(spans)

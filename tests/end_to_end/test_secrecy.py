"""No log, event, alert or answer of `inspect` shows an identity value or a secret.

These tests run last of those on the same stack, and search what all of them have left.
"""

import json
import threading
from base64 import b64encode
from dataclasses import asdict

import pytest
from leaks import leaks
from stack import SECRET_ACCESS_KEY
from waiting import eventually

from devstack.firehose import Answer, fail


@pytest.fixture
def mishap(stack, audience):
    """A dead letter and its alert, however few stories have run."""
    stack.send(audience.added_user(CustomerId="secretive" + "x" * 2 * 10**6))
    eventually(audience.letters)


def test_what_a_worker_holds_is_not_shown(stack, audience):
    go = threading.Event()
    stack.firehose.faults.append(fail(Answer(wait=go), stream=audience.stream.name))
    stack.send(*audience.added("secretive-tomorrow"), countdown=24 * 3600)
    stack.send(*audience.added("secretive-now"))
    eventually(audience.received)
    try:
        assert audience.stream.task in repr(stack.inspect("active"))
        stack.inspect("scheduled")
        stack.inspect("reserved")
    finally:
        go.set()
    assert not leaks("".join(stack.seen))


def test_events_show_no_identity_and_no_secret(stack, audience):
    def is_task_seen():
        # A worker begins to send task events some seconds after somebody began to listen.
        stack.send(*audience.added("secretive-in-events"))
        return "task-received" in "".join(stack.seen)

    eventually(is_task_seen, every=0.5)
    assert not leaks("".join(stack.seen))


def test_logs_show_no_identity_and_no_secret(stack):
    for log in stack.directory.rglob("*.log"):
        assert not leaks(log.read_text(errors="replace")), log.name


def test_not_even_a_worker_that_logs_everything_shows_them(idle_stack):
    audience = idle_stack.audience()
    with idle_stack.worker("--loglevel", "DEBUG") as worker:
        idle_stack.send(*audience.added("secretive-1"))
        (line,) = eventually(audience.received)
    assert "DEBUG" in worker.output()
    assert not leaks(worker.output())
    assert b64encode(line).decode()[:40] not in worker.output()


@pytest.mark.usefixtures("mishap")
def test_alerts_show_no_identity_and_no_secret(stack):
    alerts = [json.dumps(asdict(alert)) for alert in stack.services.alerts.all()]
    assert alerts
    assert not leaks("".join(alerts))


@pytest.mark.usefixtures("mishap")
def test_a_listed_dead_letter_shows_no_identity_and_no_secret(stack):
    letters = [json.dumps(asdict(letter)) for letter in stack.services.dead_letters.all()]
    assert letters
    assert not leaks("".join(letters))


def test_secrets_are_nowhere_in_redis(stack):
    redis = stack.services.redis
    stored = [redis.hgetall(key) for key in redis.keys("audience:config*")]
    assert stored
    assert SECRET_ACCESS_KEY not in repr(stored)


def test_the_search_finds_what_it_looks_for():
    assert leaks('{"CustomerId": "Secretive-1"}') == ["Secretive"]
    assert not leaks("AKIASECRETIVE0001")

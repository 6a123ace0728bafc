"""The outbox by itself. `tests/tasks/test_runs.py` has what runs do with it."""

import pytest

from worker.broker.outbox import OUTBOX, Outbox
from worker.broker.runs import HandOver


@pytest.fixture
def outbox(redis):
    return Outbox(redis, window_seconds=60, alone_keys=lambda _: [], record_counts=lambda *_: None)


def test_a_run_that_another_process_removes_meanwhile_is_not_stored_again(outbox, redis, monkeypatch):
    run = HandOver("run", {"1": b"key"}, [], [("full", "a"), ("other", "b")], "{}")
    outbox.store(run, outbox.now())
    entry = outbox.entry("run")
    monkeypatch.setattr(outbox, "entry", lambda run_id: entry)
    outbox.remove("run", entry.completed)
    outbox.keep("run", [("full", "a")])
    assert not redis.exists(OUTBOX)


def test_of_a_run_what_is_left_is_kept(outbox):
    run = HandOver("run", {"1": b"key"}, [], [("full", "a"), ("other", "b")], "{}")
    outbox.store(run, outbox.now())
    outbox.keep("run", [("full", "a")])
    assert outbox.entry("run") == ([("full", "a")], "{}", [b"key"])

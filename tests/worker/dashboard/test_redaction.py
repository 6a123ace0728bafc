"""Flower takes in no payload, whoever tells it one."""

import pytest
from celery import Celery
from flower.events import Events

from worker.dashboard.redaction import RedactingEvents, RedactingInspector, redacted
from worker.privacy import HIDDEN

SECRET = "phileas@example.com"
SENT = {
    "type": "task-sent",
    "uuid": "an-id",
    "hostname": "caller@host",
    "timestamp": 1.0,
    "local_received": 1.0,
    "clock": 1,
    "name": "audience.forward",
    "args": f"('{SECRET}',)",
    "kwargs": f"{{'changes': '{SECRET}'}}",
    "result": SECRET,
}


class ImmediateLoop:
    """Calls at once what Flower wants called later."""

    def add_callback(self, callback):
        callback()


@pytest.mark.parametrize(
    ("sent", "taken_in"),
    [
        ({"name": "t", "args": "(1,)"}, {"name": "t", "args": HIDDEN}),
        ({"kwargs": None}, {"kwargs": HIDDEN}),
        ([{"request": {"id": "x", "kwargs": {}}}], [{"request": {"id": "x", "kwargs": HIDDEN}}]),
        (["an-id"], ["an-id"]),
        ({"total": {"audience.forward": 3}}, {"total": {"audience.forward": 3}}),
        (None, None),
    ],
)
def test_the_arguments_of_an_event_are_redacted(sent, taken_in):
    assert redacted(sent) == taken_in


def events(kind, **options):
    return kind(Celery(set_as_current=False), io_loop=ImmediateLoop(), max_tasks_in_memory=10, **options)


@pytest.fixture
def memory():
    """A memory that received an event with a payload."""
    remembered = events(RedactingEvents)
    remembered.on_event(SENT)
    return remembered


def test_an_event_is_remembered_without_its_payload(memory):
    task = memory.state.tasks["an-id"]

    assert (task.name, task.args, task.kwargs, task.result) == ("audience.forward", HIDDEN, HIDDEN, HIDDEN)


def test_a_payload_is_not_found_by_searching(memory):
    assert not memory.state.search_engine.search(memory.state.tasks, SECRET).task_ids
    assert memory.state.search_engine.search(memory.state.tasks, "audience.forward").task_ids == ["an-id"]


def test_what_a_plain_flower_saved_is_hidden_when_it_is_loaded(tmp_path):
    database = str(tmp_path / "flower")
    plain = events(Events, db=database)
    plain.on_event(SENT)
    plain.save_state()

    restored = events(RedactingEvents, db=database, persistent=True)

    assert restored.state.tasks["an-id"].kwargs == HIDDEN
    assert not restored.state.search_engine.search(restored.state.tasks, SECRET).task_ids


def test_a_worker_s_answer_is_taken_in_without_payloads(monkeypatch):
    inspector = RedactingInspector(ImmediateLoop(), Celery(set_as_current=False), timeout=1)
    answer = {"celery@host": [{"id": "x", "name": "t", "args": [SECRET], "kwargs": {"email": SECRET}}]}
    monkeypatch.setattr("celery.app.control.Inspect.reserved", lambda self: answer)

    inspector._inspect("reserved", None)

    assert inspector.workers["celery@host"]["reserved"] == [
        {"id": "x", "name": "t", "args": HIDDEN, "kwargs": HIDDEN}
    ]

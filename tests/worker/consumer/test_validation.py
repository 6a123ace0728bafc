"""What is a call of a task, and what Celery would stumble over later."""

from types import SimpleNamespace

import pytest

from worker.broker.messages import read_task_call
from worker.consumer.validation import is_valid

HEADERS = {"id": "one", "task": "audience.forward", "retries": 0, "eta": None, "timelimit": [None, None]}
BODY = [[], {"changes": []}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
OLDER = {"id": "one", "task": "audience.forward", "args": [], "kwargs": {}}


def is_call(payload, headers):
    call = read_task_call(SimpleNamespace(payload=payload, headers=headers))
    return call is not None and is_valid(call)


@pytest.mark.parametrize("embed", [None, {}, BODY[2], {"callbacks": [{"task": "reports.daily"}]}])
def test_what_celery_writes_is_a_call(embed):
    assert is_call([*BODY[:2], embed], HEADERS)


def test_so_is_what_older_celery_writes():
    assert is_call(OLDER, {})
    assert is_call(OLDER, None)


@pytest.mark.parametrize("eta", ["2026-01-01T00:00:00+00:00", "2026-01-01T00:00:00.123456"])
def test_a_call_for_later(eta):
    assert is_call(BODY, HEADERS | {"eta": eta})


WRONG_HEADERS = {
    "no ID": {"id": None},
    "an empty ID": {"id": ""},
    "an ID that is no text": {"id": ["one"]},
    "an ID without end": {"id": "x" * 256},
    "an ID that UTF-8 cannot hold": {"id": "\ud800"},
    "a task that is no text": {"task": 7},
    "retries that are no number": {"retries": "1"},
    "retries before the first": {"retries": -1},
    "a time that is none": {"eta": "tomorrow"},
    "a time before there was any": {"eta": "0001-01-01T00:00:00"},
    "a time after all": {"expires": "9999-12-31T23:59:59"},
    "stamps that are none": {"stamped_headers": 5},
    "another name that is none": {"shadow": {}},
}


@pytest.mark.parametrize("wrong", WRONG_HEADERS.values(), ids=WRONG_HEADERS)
def test_what_celery_would_stumble_over_is_no_call(wrong):
    assert not is_call(BODY, HEADERS | wrong)
    assert not is_call(OLDER | wrong, {})


@pytest.mark.parametrize(
    "body",
    [5, [], BODY[:2], [{}, {}, {}], [[], [], {}], [[], {}, 7], [[], {}, {"callbacks": 5}], {"args": []}],
)
def test_a_body_that_is_none_is_no_call(body):
    assert not is_call(body, HEADERS)

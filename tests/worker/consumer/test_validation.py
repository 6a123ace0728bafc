"""Which messages are valid task calls: what is wrong in others would fail later, inside Celery."""

from types import SimpleNamespace

import pytest

from worker.broker.messages import read_task_call
from worker.consumer.validation import is_valid

PROTOCOL_2_HEADERS = {
    "id": "one",
    "task": "audience.forward",
    "retries": 0,
    "eta": None,
    "timelimit": [None, None],
}
BODY = [[], {"changes": []}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
PROTOCOL_1_BODY = {"id": "one", "task": "audience.forward", "args": [], "kwargs": {}}


def is_valid_call(payload, headers):
    call = read_task_call(SimpleNamespace(payload=payload, headers=headers))
    return call is not None and is_valid(call.fields)


@pytest.mark.parametrize("embed", [None, {}, BODY[2], {"callbacks": [{"task": "reports.daily"}]}])
def test_a_call_in_protocol_2_is_valid(embed):
    assert is_valid_call([*BODY[:2], embed], PROTOCOL_2_HEADERS)


def test_a_call_in_protocol_1_is_valid():
    assert is_valid_call(PROTOCOL_1_BODY, {})
    assert is_valid_call(PROTOCOL_1_BODY, None)


@pytest.mark.parametrize("eta", ["2026-01-01T00:00:00+00:00", "2026-01-01T00:00:00.123456"])
def test_a_call_with_an_eta_is_valid(eta):
    assert is_valid_call(BODY, PROTOCOL_2_HEADERS | {"eta": eta})


WRONG_FIELDS = {
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


@pytest.mark.parametrize("wrong", WRONG_FIELDS.values(), ids=WRONG_FIELDS)
def test_a_call_with_a_wrong_field_is_invalid_in_both_protocols(wrong):
    assert not is_valid_call(BODY, PROTOCOL_2_HEADERS | wrong)
    assert not is_valid_call(PROTOCOL_1_BODY | wrong, {})


@pytest.mark.parametrize(
    "body",
    [5, [], BODY[:2], [{}, {}, {}], [[], [], {}], [[], {}, 7], [[], {}, {"callbacks": 5}], {"args": []}],
)
def test_another_body_holds_no_call(body):
    assert not is_valid_call(body, PROTOCOL_2_HEADERS)

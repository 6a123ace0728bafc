"""Sentry sends no identity value. `tests/end_to_end/test_monitoring.py` shows it of a worker."""

import pytest

from worker.logs.sentry import redact

FRAME = {"function": "deliver", "vars": {"records": ["secretive"]}}


@pytest.mark.parametrize("where", ["exception", "threads"])
@pytest.mark.parametrize("wrap", [lambda values: values, lambda values: {"values": values}])
def test_tracebacks_have_no_variables(where, wrap):
    event = {where: wrap([{"type": "ValueError", "stacktrace": {"frames": [dict(FRAME)]}}])}
    assert "secretive" not in repr(redact(event, {}))
    assert "deliver" in repr(event)


def test_an_events_own_stack_has_no_variables():
    assert redact({"stacktrace": {"frames": [dict(FRAME)]}}, {}) == {
        "stacktrace": {"frames": [{"function": "deliver"}]}
    }


def test_arguments_of_a_task_are_left_out():
    job = {"task_name": "audience.forward", "args": ["secretive"], "kwargs": {"changes": ["secretive"]}}
    shown = redact({"extra": {"celery-job": job}}, {})["extra"]["celery-job"]
    assert shown == {"task_name": "audience.forward"}


def test_spans_and_breadcrumbs_of_redis_show_the_command_alone():
    event = {
        "spans": [
            {
                "op": "db.redis",
                "description": "SET 'k' 'secretive'",
                "data": {"redis.commands": ["secretive"]},
            },
            {"op": "http.client", "description": "POST https://firehose.eu-west-1.amazonaws.com/"},
        ],
        "breadcrumbs": {
            "values": [{"category": "redis", "message": "SET 'k' 'secretive'", "data": {"a": 1}}]
        },
    }
    redact(event, {})
    assert [span["description"].split()[0] for span in event["spans"]] == ["SET", "POST"]
    assert event["breadcrumbs"]["values"] == [{"category": "redis", "message": "SET"}]
    assert "secretive" not in repr(event)


def test_requests_of_the_dashboard_show_no_password_and_no_form():
    request = {"method": "POST", "url": "http://flower/alerts", "headers": {"Authorization": "secretive"}}
    event = redact({"request": request | {"data": {"q": "secretive"}, "cookies": {"s": "secretive"}}}, {})
    assert event["request"] == {"method": "POST", "url": "http://flower/alerts"}


@pytest.mark.parametrize("event", [{}, {"extra": {}, "spans": None, "exception": None, "breadcrumbs": None}])
def test_an_event_without_any_of_it_is_left_as_it_is(event):
    assert redact(dict(event), {}) == event

"""Log lines as JSON."""

import json
import logging
import subprocess
import sys

import pytest
from celery.app.trace import build_tracer

from worker.celery import app
from worker.logs.fields import log_fields
from worker.logs.json_lines import JsonFormatter


def record(message="text", *arguments, exc_info=None, **extra):
    made = logging.getLogger("tests").makeRecord(
        "tests", logging.WARNING, "file.py", 1, message, arguments, exc_info, extra=extra
    )
    made.created = 1_800_000_000.25
    return made


def line(*arguments, **options):
    text = JsonFormatter().format(record(*arguments, **options))
    assert "\n" not in text
    return json.loads(text)


def test_a_line_has_its_time_in_utc_its_level_its_logger_and_its_message():
    assert line("%d\nrecords", 7) == {
        "time": "2027-01-15T08:00:00.250+00:00",
        "level": "warning",
        "logger": "tests",
        "process": "MainProcess",
        "message": "7\nrecords",
    }


def test_the_known_fields_of_a_line_stand_beside_its_message():
    fields = log_fields(
        stream="firehose.main.us-east-1.a",
        connections={"7-ab": None},
        task_id="id",
        records=0,
        duration_seconds=0.12345,
        aws_request_id="request",
    )
    found = line(**fields)
    assert {name: found[name] for name in fields} == {
        "stream": "firehose.main.us-east-1.a",
        "connections": ["7-ab"],
        "task_id": "id",
        "records": 0,
        "duration_seconds": 0.123,
        "aws_request_id": "request",
    }


def test_a_field_that_is_not_known_is_left_out():
    assert log_fields(records=3) == {"records": 3}


def test_what_a_library_adds_to_a_record_is_left_out():
    found = line(data={"id": "task", "args": "secretive"}, kwargs="secretive")
    assert found["task_id"] == "task"
    assert "secretive" not in str(found)


def test_a_line_of_a_running_task_bears_its_id():
    lines = []

    @app.task(name="tests.logging_task", shared=False)
    def logging_task():
        lines.append(line())

    try:
        build_tracer("tests.logging_task", logging_task, app=app)("the-id", (), {}, {"id": "the-id"})
    finally:
        app.tasks.pop("tests.logging_task")
    assert lines[0]["task_id"] == "the-id"


def test_an_error_is_logged_with_its_class_and_its_lines_and_without_its_text():
    try:
        raise ValueError("secretive")
    except ValueError:
        found = line(exc_info=sys.exc_info())
    assert found["error"] == "ValueError"
    (place,) = found["traceback"]
    assert place.startswith(__file__)
    assert place.endswith(" test_an_error_is_logged_with_its_class_and_its_lines_and_without_its_text")
    assert "secretive" not in str(found)


@pytest.mark.parametrize(
    ("log_format", "expected"),
    [("json", "AUDIENCE_ZZZ is not a setting"), ("text", None)],
)
def test_warnings_of_reading_the_settings_are_json_lines(log_format, expected):
    environment = {"AUDIENCE_LOG_FORMAT": log_format, "AUDIENCE_ZZZ": "1"}
    done = subprocess.run(
        [sys.executable, "-c", "import worker.celery"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    (printed,) = done.stderr.splitlines()
    if expected:
        found = json.loads(printed)
        assert (found["level"], found["message"]) == ("warning", expected)
    else:
        assert printed == "AUDIENCE_ZZZ is not a setting"

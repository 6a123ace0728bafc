"""The log lines of deliveries."""

import logging

import pytest

from devstack.firehose import REQUEST_ID, error, fail, refuse_once
from worker.logs.fields import fields_of


@pytest.fixture
def lines(caplog):
    """Those of the tasks, as level, message and fields."""

    def found():
        return [
            (record.levelname, record.getMessage(), fields_of(record))
            for record in caplog.records
            if record.name.startswith("tasks.")
        ]

    caplog.set_level(logging.DEBUG, "tasks")
    return found


def test_a_delivery_is_one_line_at_debug(deliver, stream, lines):
    deliver("secretive-1", "secretive-2")
    ((level, message, fields),) = lines()
    assert (level, message) == ("DEBUG", f"{stream.queue}: 2 records delivered")
    assert fields["stream"] == stream.queue
    assert fields["records"] == 2
    assert fields["connections"]
    assert fields["task_id"]
    assert fields["duration_seconds"] >= 0
    assert fields["aws_request_id"] == REQUEST_ID


def test_a_refusal_is_one_line_at_warning(deliver, firehose, stream, lines):
    firehose.faults.append(refuse_once(b"secretive-2"))
    deliver("secretive-1", "secretive-2", "secretive-3")
    (level, message, fields), delivered = lines()
    assert (level, message) == (
        "WARNING",
        f"{stream.queue}: ServiceUnavailableException; 1 records wait for a retry",
    )
    assert fields["records"] == 1
    assert fields["aws_request_id"] == REQUEST_ID
    assert delivered[:2] == ("DEBUG", f"{stream.queue}: 1 records delivered")


def test_a_dead_letter_is_one_line_at_warning_with_the_request_id_of_aws(deliver, firehose, stream, lines):
    firehose.faults.append(fail(error("ResourceNotFoundException")))
    deliver("secretive-1")
    ((level, message, fields),) = lines()
    assert level == "WARNING"
    assert message.endswith(": Stream Not Found (ResourceNotFoundException)")
    assert fields["stream"] == stream.queue
    assert fields["aws_request_id"]


def test_no_log_line_holds_an_identity_value(deliver, firehose, lines):
    firehose.faults.append(refuse_once(b"secretive-2"))
    firehose.faults.append(fail(error("AccessDeniedException")))
    deliver("secretive-1", "secretive-2")
    deliver("secretive-3")
    assert lines()
    assert "secretive" not in str(lines())

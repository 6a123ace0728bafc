"""Undeliverable records are dead-lettered, raise one alert, and are delivered by a replay."""

import pytest
from stack import RETRY_MAX
from waiting import eventually

from devstack.firehose import error, fail, refuse_once

REFUSALS = {
    "ResourceNotFoundException": "Stream Not Found",
    "AccessDeniedException": "Access Denied",
    "UnrecognizedClientException": "Invalid Credentials",
    "ValidationException": "Invalid Request",
}


def refuse_always(needle):
    """A record that Firehose never takes."""

    def fault(call):
        return refuse_once(needle)(call)

    return fault


def test_when_retries_are_spent_exactly_the_undelivered_records_are_a_dead_letter(stack, audience):
    stack.firehose.faults.append(refuse_always(b"secretive-unlucky"))
    stack.send(*audience.added("secretive-lucky", "secretive-unlucky"))
    (letter,) = eventually(audience.letters)
    records = stack.services.dead_letters.message(letter).kwargs["records"]
    assert (len(records), "secretive-unlucky" in records[0]) == (1, True)
    assert audience.puts() == [2, *[1] * RETRY_MAX]
    fatal = [alert for alert in audience.alerts() if alert.severity == "fatal"]
    assert [(alert.type, alert.attempts, alert.records) for alert in fatal] == [
        ("Retry Limit Exceeded", RETRY_MAX + 1, 1)
    ]
    assert fatal[0].dead_letter_id == letter.id


def test_a_replayed_dead_letter_is_delivered(stack, audience):
    stack.firehose.faults.append(refuse_always(b"secretive-unlucky"))
    stack.send(*audience.added("secretive-unlucky"))
    (letter,) = eventually(audience.letters)
    stack.firehose.faults.clear()
    stack.replay(letter)
    eventually(audience.received)
    assert audience.customers() == ["secretive-unlucky"]
    assert not audience.letters()


def test_a_stream_that_keeps_failing_raises_a_warning_before_anything_is_dead_lettered(stack, audience):
    stack.firehose.faults.append(fail(error("InternalFailure", 500), stream=audience.stream.name))
    for number in range(2):
        stack.send(*audience.added(f"secretive-{number}"))
        eventually(lambda letters=number + 1: len(audience.letters()) == letters)
    warnings = [alert for alert in audience.alerts() if alert.severity == "warning"]
    assert [alert.type for alert in warnings] == ["500 - Internal Server Error"]


def test_throttling_is_named_with_its_cure(stack, audience):
    stack.firehose.faults.append(refuse_always(b"secretive-busy"))
    stack.send(*audience.added("secretive-busy"))
    eventually(audience.letters)
    warning = next(alert for alert in audience.alerts() if alert.severity == "warning")
    assert "AWS can raise the limit" in warning.message


@pytest.mark.parametrize(("code", "alert_type"), REFUSALS.items())
def test_a_permanent_refusal_pauses_the_stream_until_it_is_resumed(stack, audience, code, alert_type):
    stack.firehose.faults.append(fail(error(code), stream=audience.stream.name))
    stack.send(*audience.added("secretive-refused"))
    (letter,) = eventually(audience.letters)
    eventually(lambda: stack.services.circuit_breakers.get(audience.stream))
    (alert,) = audience.alerts()
    assert (alert.type, alert.severity, alert.error_code) == (alert_type, "fatal", code)
    assert (alert.attempts, alert.dead_letter_id) == (1, letter.id)
    assert alert.connection_ids == [audience.connection_id]
    assert stack.services.circuit_breakers.get(audience.stream).reason == alert_type

    stack.send(*audience.added("secretive-next"))
    eventually(audience.waiting)
    # Where PutRecordBatch is denied, PutRecord is tried once.
    assert audience.puts() == ([1, 1] if alert_type == "Access Denied" else [1])

    stack.firehose.faults.clear()
    stack.services.circuit_breakers.resume(audience.stream)
    stack.replay(letter)
    eventually(lambda: len(audience.received()) == 2)
    assert sorted(audience.customers()) == ["secretive-next", "secretive-refused"]


def test_a_paused_stream_keeps_its_backlog_in_the_broker(stack, audience, another_audience):
    stack.services.circuit_breakers.pause(audience.stream, "operator")
    for number in range(5):
        stack.send(*audience.added(f"secretive-{number}"))
        # Messages that wait together would make one batch.
        eventually(lambda batches=number + 1: audience.waiting() == batches)
    stack.send(*another_audience.added("secretive-1"))
    eventually(another_audience.received)
    assert not audience.puts()
    stack.services.circuit_breakers.resume(audience.stream)
    eventually(lambda: len(audience.received()) == 5)


def test_a_missing_stream_raises_stream_not_found(stack, audience):
    del stack.firehose.streams["*", "us-east-1", audience.stream.name]
    stack.send(*audience.added("secretive-1"))
    eventually(audience.letters)
    assert [alert.type for alert in audience.alerts()] == ["Stream Not Found"]


@pytest.mark.parametrize("status", ["DELETING", "CREATING_FAILED"])
def test_a_stream_that_is_being_deleted_or_was_not_created_raises_stream_not_found(stack, audience, status):
    stack.firehose.streams["*", "us-east-1", audience.stream.name].status = status
    stack.send(*audience.added("secretive-1"))
    eventually(audience.letters)
    assert [alert.type for alert in audience.alerts()] == ["Stream Not Found"]

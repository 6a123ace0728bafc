"""The states of streams as log lines."""

import logging

import pytest

from worker.consumer.stream_states import StreamStates
from worker.flow.circuit_breakers import CircuitBreaker

FIRST, SECOND = "firehose.main.us-east-1.first", "firehose.main.us-east-1.second"
SINCE = "2027-01-15T08:00:00+00:00"
PAUSED = CircuitBreaker("operator", SINCE)
OPEN = CircuitBreaker("Slow Down", SINCE, until=1_800_000_001.0, failures=1)
PROBED = CircuitBreaker("Slow Down", SINCE, until=1_800_000_060.0, failures=1, probing=True, prober="id")
OPEN_AGAIN = CircuitBreaker("Slow Down", SINCE, until=1_800_000_003.0, failures=2)


@pytest.fixture
def states():
    return StreamStates()


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO)

    def take():
        found = list(caplog.messages)
        caplog.clear()
        return found

    return take


def test_at_the_start_one_line_counts_the_streams_and_each_that_does_not_flow_has_its_own(states, lines):
    states.update({FIRST, SECOND, "firehose.main.us-east-1.third"}, {FIRST: PAUSED, SECOND: OPEN})
    assert lines() == [
        "streams: 1 flowing, 1 failing, 1 paused",
        f"{FIRST}: paused (operator)",
        f"{SECOND}: failing (Slow Down)",
    ]


def test_a_change_of_state_is_logged_and_a_probe_is_not(states, lines):
    states.update({FIRST}, {})
    assert lines() == ["streams: 1 flowing"]
    states.update({FIRST}, {FIRST: OPEN})
    assert lines() == [f"{FIRST}: failing (Slow Down)"]
    for breaker in (PROBED, OPEN_AGAIN, PROBED):
        states.update({FIRST}, {FIRST: breaker})
    assert lines() == []
    states.update({FIRST}, {})
    assert lines() == [f"{FIRST}: flowing"]


def test_a_stream_that_is_connected_or_disconnected_is_logged(states, lines):
    states.update(set(), {})
    assert lines() == ["streams: none connected"]
    states.update({FIRST}, {})
    assert lines() == [f"{FIRST}: flowing"]
    states.update(set(), {FIRST: PAUSED})
    assert lines() == [f"{FIRST}: not connected"]


def test_the_line_of_a_stream_bears_its_queue_as_a_field(states, caplog):
    caplog.set_level(logging.INFO)
    states.update({FIRST}, {FIRST: PAUSED})
    assert caplog.records[-1].stream == FIRST

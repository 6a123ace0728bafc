"""Closed streams."""

import pytest

from worker.queues import Stream
from worker.state.gates import Gate


@pytest.fixture
def gates(state):
    return state.gates


def test_a_stream_flows_until_it_is_closed(gates, stream):
    assert gates.get(stream) is None
    gates.close(stream, "Access Denied")
    assert gates.get(stream) == Gate("Access Denied", "2023-11-14T22:13:20+00:00")
    assert gates.closed() == {stream.queue: gates.get(stream)}


def test_an_opened_stream_flows_again(gates, stream):
    gates.close(stream, "operator")
    assert gates.open(stream)
    assert gates.get(stream) is None
    assert not gates.open(stream)


@pytest.mark.parametrize(
    "other", [Stream("other", "us-east-1", "travel"), Stream("main", "eu-west-1", "travel")]
)
def test_the_same_name_elsewhere_is_not_closed_with_it(gates, stream, other):
    gates.close(stream, "operator")
    assert gates.get(other) is None


def test_the_last_reason_counts(gates, stream, clock):
    gates.close(stream, "operator")
    clock.advance(60)
    gates.close(stream, "Access Denied")
    assert gates.get(stream) == Gate("Access Denied", "2023-11-14T22:14:20+00:00")

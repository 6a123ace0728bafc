"""Closed streams."""

import pytest

from worker.firehose.quotas import Quota
from worker.queues import Stream
from worker.state.admission import PROBE_SECONDS, Cost
from worker.state.gates import FURTHEST, GATES, TIMED_GATES, UNREADABLE, Gate, Gates


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


@pytest.mark.parametrize("reason", ["Stream Not Found", "operator"])
def test_the_last_reason_counts(gates, stream, clock, reason):
    gates.close(stream, "Access Denied")
    clock.advance(60)
    gates.close(stream, reason)
    assert gates.get(stream) == Gate(reason, "2023-11-14T22:14:20+00:00")


def test_a_refusal_of_what_was_in_hand_does_not_take_an_operator_s_pause_away(gates, stream, clock):
    gates.close(stream, "operator")
    clock.advance(60)
    gates.close(stream, "Access Denied")
    assert gates.get(stream) == Gate("operator", "2023-11-14T22:13:20+00:00")


@pytest.mark.parametrize("text", ["", "{", "null", '"operator"', "[1]"])
def test_a_spoilt_gate_is_closed_anew(gates, redis, stream, text):
    redis.hset(GATES, stream.queue, text)
    gates.close(stream, "Access Denied")
    assert gates.get(stream).reason == "Access Denied"


FIRST, LONGEST = 4, 30
REASON = "Service Unavailable"


@pytest.fixture
def exact(redis, clock):
    """Gates that chance does not shorten."""
    return Gates(redis, clock, jitter=lambda low, high: high)


QUOTA = Quota(10**9, 10**9, 10**9)


def fail(gates, stream, message_id="a message"):
    return gates.failed(stream, REASON, first=FIRST, longest=LONGEST, message_id=message_id)


@pytest.fixture
def begin_probe(state, stream):
    """Have a message probe the stream, if it may."""
    return lambda message_id="a probe": (
        state.admission.ask(stream, Cost(1, 1), QUOTA, message_id=message_id).is_probe
    )


@pytest.fixture
def probe(exact, begin_probe, stream, clock):
    """Leave the stream alone until its time has come, then have a probe fail. How long it is closed now."""

    def probe():
        clock.now = exact.get(stream).until
        assert begin_probe()
        fail(exact, stream, "a probe")
        return exact.get(stream).until - clock.now

    return probe


@pytest.mark.parametrize(
    ("jitter", "seconds"), [(lambda low, high: low, FIRST / 2), (lambda low, high: high, FIRST)]
)
def test_the_first_failure_closes_for_half_to_all_of_a_while(redis, clock, stream, jitter, seconds):
    gates = Gates(redis, clock, jitter=jitter)
    assert fail(gates, stream) == 1
    assert gates.get(stream) == Gate(REASON, "2023-11-14T22:13:20+00:00", clock.now + seconds, failures=1)
    clock.advance(seconds - 0.01)
    assert stream.queue in gates.closed()
    clock.advance(0.01)
    assert stream.queue not in gates.closed()


def test_failures_while_it_is_closed_change_nothing(exact, stream, clock):
    fail(exact, stream)
    before = exact.get(stream)
    clock.advance(FIRST - 1)
    assert exact.failed(stream, "another", first=100, longest=100) == 1
    assert exact.get(stream) == before


def test_each_failed_probe_doubles_the_while_up_to_the_longest(exact, probe, stream):
    fail(exact, stream)
    assert [probe() for _ in range(5)] == [8, 16, 30, 30, 30]
    assert exact.get(stream).failures == 6
    assert exact.get(stream).since == "2023-11-14T22:13:20+00:00"


def test_the_while_stays_the_longest_however_often_it_fails(exact, probe, stream):
    fail(exact, stream)
    assert {probe() for _ in range(40)} == {8, 16, LONGEST}


def test_a_probe_that_fails_counts_before_the_next_one_may_try(exact, begin_probe, stream, clock):
    fail(exact, stream)
    clock.advance(FIRST)
    assert begin_probe("one")
    assert (exact.get(stream).probing, exact.get(stream).prober) == (True, "one")
    assert fail(exact, stream, "one") == 2
    assert exact.get(stream)[2:] == (clock.now + 2 * FIRST, 2, False, "")


def test_what_was_on_its_way_as_the_gate_closed_does_not_count_for_the_probe(
    exact, begin_probe, stream, clock
):
    fail(exact, stream, "first")
    clock.advance(FIRST)
    assert begin_probe("one")
    before = exact.get(stream)
    assert fail(exact, stream, "late") == 1
    assert exact.get(stream) == before
    clock.advance(FIRST)
    assert not begin_probe("second")
    assert fail(exact, stream, "one") == 2


def test_what_ends_late_and_unprobed_neither_counts_nor_opens(exact, begin_probe, stream, clock):
    assert fail(exact, stream, "first") == 1
    before = exact.get(stream)
    for number in range(16):
        assert fail(exact, stream, f"late {number}") == 1
        clock.advance(1.9)
    assert exact.get(stream) == before
    assert begin_probe()


def test_of_a_lost_probe_nothing_counts_once_another_is_out(exact, begin_probe, stream, clock):
    fail(exact, stream)
    clock.advance(FIRST)
    assert begin_probe("lost")
    clock.advance(PROBE_SECONDS)
    assert begin_probe("next")
    assert fail(exact, stream, "lost") == 1
    exact.not_probed(stream, "lost")
    assert exact.get(stream).prober == "next"
    assert fail(exact, stream, "next") == 2


def test_where_the_probe_is_not_known_any_failure_may_be_its(exact, begin_probe, stream, clock):
    fail(exact, stream)
    clock.advance(FIRST)
    assert begin_probe("")
    assert fail(exact, stream) == 2


def succeed(gates, redis, stream):
    with redis.pipeline() as pipe:
        gates.succeeded(stream, pipe)
        pipe.execute()


def test_a_probe_that_did_not_take_place_leaves_it_to_the_next(exact, begin_probe, stream, clock):
    fail(exact, stream)
    closed = exact.get(stream)
    exact.not_probed(stream, "one")
    assert exact.get(stream) == closed
    clock.advance(FIRST)
    assert begin_probe("one")
    exact.not_probed(stream, "late")
    assert not begin_probe("two")
    exact.not_probed(stream, "one")
    assert exact.get(stream) == closed._replace(until=clock.now)
    assert begin_probe("two")


def test_a_stream_that_flows_is_not_closed_by_what_did_not_probe_it(exact, stream):
    exact.not_probed(stream)
    assert exact.get(stream) is None


def test_success_opens_a_timed_gate_and_the_next_failure_is_a_first_one(exact, redis, probe, stream):
    fail(exact, stream)
    probe()
    succeed(exact, redis, stream)
    assert exact.get(stream) is None
    assert fail(exact, stream) == 1


def test_success_does_not_open_what_is_closed_until_it_is_resumed(exact, redis, stream):
    exact.close(stream, "operator")
    succeed(exact, redis, stream)
    assert exact.get(stream).reason == "operator"


def test_closed_until_resumed_goes_before_closed_for_a_while(exact, stream, clock):
    fail(exact, stream)
    exact.close(stream, "operator")
    assert exact.get(stream).until is None
    clock.advance(FIRST)
    assert exact.closed() == exact.all() == {stream.queue: Gate("operator", "2023-11-14T22:13:20+00:00")}


def test_opening_removes_both_gates(exact, redis, stream):
    fail(exact, stream)
    assert exact.open(stream)
    assert exact.get(stream) is None
    fail(exact, stream)
    exact.close(stream, "operator")
    assert exact.open(stream)
    assert exact.all() == {}
    assert not exact.open(stream)


def test_a_stream_that_may_be_probed_has_a_gate_and_is_not_closed(exact, stream, clock):
    fail(exact, stream)
    clock.advance(FIRST)
    assert exact.closed() == {}
    assert exact.all() == {stream.queue: exact.get(stream)}


def test_a_gate_that_was_closed_by_a_clock_that_is_put_back_is_tried(exact, begin_probe, stream, clock):
    fail(exact, stream)
    clock.advance(-FURTHEST)
    assert exact.closed() == {}
    assert exact.get(stream).is_tried(clock.now)
    assert begin_probe()
    assert stream.queue in exact.closed()


def test_a_gate_tells_until_when_nobody_tries_and_that_somebody_does(exact, redis, stream, clock):
    fail(exact, stream)
    gate = exact.get(stream)
    assert gate.closed_until == "2023-11-14T22:13:24+00:00"
    assert not gate.is_tried(clock.now)
    assert gate.is_tried(gate.until)
    assert gate._replace(probing=True).is_tried(clock.now)


def test_nobody_tries_a_stream_that_is_closed_until_it_is_resumed(exact, stream, clock):
    exact.close(stream, "operator")
    assert exact.get(stream).closed_until is None
    assert not exact.get(stream).is_tried(clock.now + 1e9)


SPOILT = [
    "",
    "{",
    "[]",
    "null",
    '{"reason": 1, "since": ""}',
    '{"unknown": 1}',
    '{"reason": "operator", "since": "yesterday"}',
    '{"reason": "operator", "since": "0001-01-01T00:00:00+01:00"}',
    '{"reason": "operator", "since": "2023-11-14", "until": 1e300}',
    '{"reason": "operator", "since": "2023-11-14", "until": NaN}',
    '{"reason": "operator", "since": "2023-11-14", "until": Infinity}',
]


@pytest.mark.parametrize("where", [GATES, TIMED_GATES])
@pytest.mark.parametrize("text", SPOILT)
def test_a_spoilt_entry_keeps_its_stream_closed(gates, redis, stream, where, text):
    redis.hset(where, stream.queue, text)
    assert gates.get(stream) == Gate(UNREADABLE, "")
    assert gates.closed() == {stream.queue: Gate(UNREADABLE, "")}

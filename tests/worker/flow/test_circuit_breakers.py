"""Closed streams."""

import pytest

from schemas.quotas import Quota
from worker.flow.admission import PROBE_SECONDS, Cost
from worker.flow.circuit_breakers import FURTHEST, OPEN, PAUSED, UNREADABLE, CircuitBreaker, CircuitBreakers
from worker.queues import Stream


@pytest.fixture
def breakers(services):
    return services.circuit_breakers


def test_a_stream_flows_until_it_is_closed(breakers, stream):
    assert breakers.get(stream) is None
    breakers.pause(stream, "Access Denied")
    assert breakers.get(stream) == CircuitBreaker("Access Denied", "2023-11-14T22:13:20+00:00")
    assert breakers.blocking() == {stream.queue: breakers.get(stream)}


def test_an_opened_stream_flows_again(breakers, stream):
    breakers.pause(stream, "operator")
    assert breakers.resume(stream)
    assert breakers.get(stream) is None
    assert not breakers.resume(stream)


@pytest.mark.parametrize(
    "other", [Stream("other", "us-east-1", "travel"), Stream("main", "eu-west-1", "travel")]
)
def test_the_same_name_elsewhere_is_not_closed_with_it(breakers, stream, other):
    breakers.pause(stream, "operator")
    assert breakers.get(other) is None


@pytest.mark.parametrize("reason", ["Stream Not Found", "operator"])
def test_the_last_reason_counts(breakers, stream, clock, reason):
    breakers.pause(stream, "Access Denied")
    clock.advance(60)
    breakers.pause(stream, reason)
    assert breakers.get(stream) == CircuitBreaker(reason, "2023-11-14T22:14:20+00:00")


def test_a_refusal_of_what_was_in_hand_does_not_take_an_operator_s_pause_away(breakers, stream, clock):
    breakers.pause(stream, "operator")
    clock.advance(60)
    breakers.pause(stream, "Access Denied")
    assert breakers.get(stream) == CircuitBreaker("operator", "2023-11-14T22:13:20+00:00")


@pytest.mark.parametrize("text", ["", "{", "null", '"operator"', "[1]"])
def test_a_spoilt_gate_is_closed_anew(breakers, redis, stream, text):
    redis.hset(PAUSED, stream.queue, text)
    breakers.pause(stream, "Access Denied")
    assert breakers.get(stream).reason == "Access Denied"


FIRST, LONGEST = 4, 30
REASON = "Service Unavailable"


@pytest.fixture
def exact(redis, clock):
    """CircuitBreakers that chance does not shorten."""
    return CircuitBreakers(redis, clock, jitter=lambda low, high: high)


QUOTA = Quota(10**9, 10**9, 10**9)


def fail(breakers, stream, message_id="a message"):
    return breakers.record_failure(stream, REASON, first=FIRST, longest=LONGEST, message_id=message_id)


@pytest.fixture
def begin_probe(services, stream):
    """Have a message probe the stream, if it may."""
    return lambda message_id="a probe": (
        services.admission.acquire(stream, Cost(1, 1), QUOTA, message_id=message_id).is_probe
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
    breakers = CircuitBreakers(redis, clock, jitter=jitter)
    assert fail(breakers, stream) == 1
    assert breakers.get(stream) == CircuitBreaker(
        REASON, "2023-11-14T22:13:20+00:00", clock.now + seconds, failures=1
    )
    clock.advance(seconds - 0.01)
    assert stream.queue in breakers.blocking()
    clock.advance(0.01)
    assert stream.queue not in breakers.blocking()


def test_failures_while_it_is_closed_change_nothing(exact, stream, clock):
    fail(exact, stream)
    before = exact.get(stream)
    clock.advance(FIRST - 1)
    assert exact.record_failure(stream, "another", first=100, longest=100) == 1
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
    exact.release_probe(stream, "lost")
    assert exact.get(stream).prober == "next"
    assert fail(exact, stream, "next") == 2


def test_where_the_probe_is_not_known_any_failure_may_be_its(exact, begin_probe, stream, clock):
    fail(exact, stream)
    clock.advance(FIRST)
    assert begin_probe("")
    assert fail(exact, stream) == 2


def succeed(breakers, redis, stream):
    with redis.pipeline() as pipe:
        breakers.record_success(stream, pipe)
        pipe.execute()


def test_a_probe_that_did_not_take_place_leaves_it_to_the_next(exact, begin_probe, stream, clock):
    fail(exact, stream)
    closed = exact.get(stream)
    exact.release_probe(stream, "one")
    assert exact.get(stream) == closed
    clock.advance(FIRST)
    assert begin_probe("one")
    exact.release_probe(stream, "late")
    assert not begin_probe("two")
    exact.release_probe(stream, "one")
    assert exact.get(stream) == closed._replace(until=clock.now)
    assert begin_probe("two")


def test_a_stream_that_flows_is_not_closed_by_what_did_not_probe_it(exact, stream):
    exact.release_probe(stream)
    assert exact.get(stream) is None


def test_success_opens_a_timed_gate_and_the_next_failure_is_a_first_one(exact, redis, probe, stream):
    fail(exact, stream)
    probe()
    succeed(exact, redis, stream)
    assert exact.get(stream) is None
    assert fail(exact, stream) == 1


def test_success_does_not_open_what_is_closed_until_it_is_resumed(exact, redis, stream):
    exact.pause(stream, "operator")
    succeed(exact, redis, stream)
    assert exact.get(stream).reason == "operator"


def test_closed_until_resumed_goes_before_closed_for_a_while(exact, stream, clock):
    fail(exact, stream)
    exact.pause(stream, "operator")
    assert exact.get(stream).until is None
    clock.advance(FIRST)
    assert (
        exact.blocking()
        == exact.all()
        == {stream.queue: CircuitBreaker("operator", "2023-11-14T22:13:20+00:00")}
    )


def test_opening_removes_both_gates(exact, redis, stream):
    fail(exact, stream)
    assert exact.resume(stream)
    assert exact.get(stream) is None
    fail(exact, stream)
    exact.pause(stream, "operator")
    assert exact.resume(stream)
    assert exact.all() == {}
    assert not exact.resume(stream)


def test_a_stream_that_may_be_probed_has_a_gate_and_is_not_closed(exact, stream, clock):
    fail(exact, stream)
    clock.advance(FIRST)
    assert exact.blocking() == {}
    assert exact.all() == {stream.queue: exact.get(stream)}


def test_a_gate_that_was_closed_by_a_clock_that_is_put_back_is_tried(exact, begin_probe, stream, clock):
    fail(exact, stream)
    clock.advance(-FURTHEST)
    assert exact.blocking() == {}
    assert exact.get(stream).is_being_probed(clock.now)
    assert begin_probe()
    assert stream.queue in exact.blocking()


def test_a_gate_tells_until_when_nobody_tries_and_that_somebody_does(exact, redis, stream, clock):
    fail(exact, stream)
    breaker = exact.get(stream)
    assert breaker.open_until == "2023-11-14T22:13:24+00:00"
    assert not breaker.is_being_probed(clock.now)
    assert breaker.is_being_probed(breaker.until)
    assert breaker._replace(probing=True).is_being_probed(clock.now)


def test_nobody_tries_a_stream_that_is_closed_until_it_is_resumed(exact, stream, clock):
    exact.pause(stream, "operator")
    assert exact.get(stream).open_until is None
    assert not exact.get(stream).is_being_probed(clock.now + 1e9)


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


@pytest.mark.parametrize("where", [PAUSED, OPEN])
@pytest.mark.parametrize("text", SPOILT)
def test_a_spoilt_entry_keeps_its_stream_closed(breakers, redis, stream, where, text):
    redis.hset(where, stream.queue, text)
    assert breakers.get(stream) == CircuitBreaker(UNREADABLE, "")
    assert breakers.blocking() == {stream.queue: CircuitBreaker(UNREADABLE, "")}

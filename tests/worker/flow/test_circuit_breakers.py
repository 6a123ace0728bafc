"""Circuit breakers: which streams may take batches."""

from math import inf

import pytest

from schemas.quotas import Quota
from worker.flow.admission import PROBE_TIMEOUT_SECONDS, Cost
from worker.flow.circuit_breakers import (
    CORRUPT,
    LONGEST_OPEN_SECONDS,
    OPEN_KEY,
    PAUSED_KEY,
    CircuitBreaker,
    CircuitBreakers,
    CircuitState,
)
from worker.queues import Stream


@pytest.fixture
def breakers(services):
    return services.circuit_breakers


def test_a_stream_flows_until_it_is_paused(breakers, stream):
    assert breakers.get(stream) is None
    breakers.pause(stream, "Access Denied")
    assert breakers.get(stream) == CircuitBreaker("Access Denied", "2023-11-14T22:13:20+00:00")
    assert breakers.blocking() == {stream.queue: breakers.get(stream)}


def test_a_resumed_stream_flows_again(breakers, stream):
    breakers.pause(stream, "operator")
    assert breakers.resume(stream)
    assert breakers.get(stream) is None
    assert not breakers.resume(stream)


@pytest.mark.parametrize(
    "other", [Stream("other", "us-east-1", "travel"), Stream("main", "eu-west-1", "travel")]
)
def test_the_same_name_in_another_configuration_or_region_is_not_paused_with_it(breakers, stream, other):
    breakers.pause(stream, "operator")
    assert breakers.get(other) is None


@pytest.mark.parametrize("reason", ["Stream Not Found", "operator"])
def test_a_later_reason_replaces_a_refusal(breakers, stream, clock, reason):
    breakers.pause(stream, "Access Denied")
    clock.advance(60)
    breakers.pause(stream, reason)
    assert breakers.get(stream) == CircuitBreaker(reason, "2023-11-14T22:14:20+00:00")


def test_a_second_pause_of_an_operator_leaves_the_first_as_old_as_it_is(breakers, stream, clock):
    breakers.pause(stream, "operator")
    before = breakers.get(stream)
    clock.advance(60)
    breakers.pause(stream, "operator")
    assert breakers.get(stream) == before


def test_a_refusal_of_a_batch_in_flight_does_not_replace_an_operators_pause(breakers, stream, clock):
    breakers.pause(stream, "operator")
    clock.advance(60)
    breakers.pause(stream, "Access Denied")
    assert breakers.get(stream) == CircuitBreaker("operator", "2023-11-14T22:13:20+00:00")


@pytest.mark.parametrize("text", ["", "{", "null", '"operator"', "[1]"])
def test_a_corrupt_entry_is_replaced_by_a_pause(breakers, redis, stream, text):
    redis.hset(PAUSED_KEY, stream.queue, text)
    breakers.pause(stream, "Access Denied")
    assert breakers.get(stream).reason == "Access Denied"


FIRST, LONGEST = 4, 30
REASON = "Service Unavailable"


@pytest.fixture
def exact(redis, clock):
    """Circuit breakers without jitter."""
    return CircuitBreakers(redis, clock, jitter=lambda low, high: high)


QUOTA = Quota(10**9, 10**9, 10**9)


def fail(breakers, stream, message_id="a message"):
    return breakers.record_failure(stream, REASON, first=FIRST, longest=LONGEST, message_id=message_id)


@pytest.fixture
def begin_probe(services, stream):
    """Try to have a message probe the stream; whether it does."""
    return lambda message_id="a probe": (
        services.admission.acquire(stream, Cost(1, 1), QUOTA, message_id=message_id).is_probe
    )


@pytest.fixture
def probe(exact, begin_probe, stream, clock):
    """Have a probe fail once the breaker is half-open; the seconds for which it is open now."""

    def probe():
        clock.now = exact.get(stream).until
        assert begin_probe()
        fail(exact, stream, "a probe")
        return exact.get(stream).until - clock.now

    return probe


@pytest.mark.parametrize(
    ("jitter", "seconds"), [(lambda low, high: low, FIRST / 2), (lambda low, high: high, FIRST)]
)
def test_the_first_failure_opens_for_half_to_all_of_the_first_duration(redis, clock, stream, jitter, seconds):
    breakers = CircuitBreakers(redis, clock, jitter=jitter)
    assert fail(breakers, stream) == 1
    assert breakers.get(stream) == CircuitBreaker(
        REASON, "2023-11-14T22:13:20+00:00", clock.now + seconds, failures=1
    )
    clock.advance(seconds - 0.01)
    assert stream.queue in breakers.blocking()
    clock.advance(0.01)
    assert stream.queue not in breakers.blocking()


def test_failures_while_it_is_open_change_nothing(exact, stream, clock):
    fail(exact, stream)
    before = exact.get(stream)
    clock.advance(FIRST - 1)
    assert exact.record_failure(stream, "another", first=100, longest=100) == 1
    assert exact.get(stream) == before


def test_each_failed_probe_doubles_the_duration_up_to_the_longest(exact, probe, stream):
    fail(exact, stream)
    assert [probe() for _ in range(5)] == [8, 16, 30, 30, 30]
    assert exact.get(stream).failures == 6
    assert exact.get(stream).since == "2023-11-14T22:13:20+00:00"


def test_the_duration_stays_the_longest_however_often_probes_fail(exact, probe, stream):
    fail(exact, stream)
    assert {probe() for _ in range(40)} == {8, 16, LONGEST}


def test_a_failed_probe_counts_and_ends(exact, begin_probe, stream, clock):
    fail(exact, stream)
    clock.advance(FIRST)
    assert begin_probe("one")
    assert (exact.get(stream).probing, exact.get(stream).prober) == (True, "one")
    assert fail(exact, stream, "one") == 2
    assert exact.get(stream)[2:] == (clock.now + 2 * FIRST, 2, False, "")


def test_a_failure_of_a_batch_in_flight_when_it_opened_does_not_count_for_the_probe(
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


def test_late_failures_neither_count_nor_prolong(exact, begin_probe, stream, clock):
    assert fail(exact, stream, "first") == 1
    before = exact.get(stream)
    for number in range(16):
        assert fail(exact, stream, f"late {number}") == 1
        clock.advance(1.9)
    assert exact.get(stream) == before
    assert begin_probe()


def test_a_lost_probe_that_fails_after_all_does_not_count_for_the_next(exact, begin_probe, stream, clock):
    fail(exact, stream)
    clock.advance(FIRST)
    assert begin_probe("lost")
    clock.advance(PROBE_TIMEOUT_SECONDS)
    assert begin_probe("next")
    assert fail(exact, stream, "lost") == 1
    exact.release_probe(stream, "lost")
    assert exact.get(stream).prober == "next"
    assert fail(exact, stream, "next") == 2


def test_where_the_probes_id_is_not_known_any_failure_counts_as_its(exact, begin_probe, stream, clock):
    fail(exact, stream)
    clock.advance(FIRST)
    assert begin_probe("")
    assert fail(exact, stream) == 2


def succeed(breakers, redis, stream):
    with redis.pipeline() as pipe:
        breakers.record_success(stream, pipe)
        pipe.execute()


def test_a_probe_that_was_not_sent_is_released_for_the_next_message(exact, begin_probe, stream, clock):
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


def test_releasing_a_probe_of_a_stream_that_flows_changes_nothing(exact, stream):
    exact.release_probe(stream)
    assert exact.get(stream) is None


def test_success_closes_an_open_breaker_and_the_next_failure_is_a_first_one(exact, redis, probe, stream):
    fail(exact, stream)
    probe()
    succeed(exact, redis, stream)
    assert exact.get(stream) is None
    assert fail(exact, stream) == 1


def test_success_does_not_resume_a_paused_stream(exact, redis, stream):
    exact.pause(stream, "operator")
    succeed(exact, redis, stream)
    assert exact.get(stream).reason == "operator"


def test_paused_goes_before_open(exact, stream, clock):
    fail(exact, stream)
    exact.pause(stream, "operator")
    assert exact.get(stream).until is None
    clock.advance(FIRST)
    assert (
        exact.blocking()
        == exact.all()
        == {stream.queue: CircuitBreaker("operator", "2023-11-14T22:13:20+00:00")}
    )


def test_resuming_closes_an_open_and_a_paused_breaker(exact, redis, stream):
    fail(exact, stream)
    assert exact.resume(stream)
    assert exact.get(stream) is None
    fail(exact, stream)
    exact.pause(stream, "operator")
    assert exact.resume(stream)
    assert exact.all() == {}
    assert not exact.resume(stream)


def test_a_half_open_breaker_does_not_block(exact, stream, clock):
    fail(exact, stream)
    clock.advance(FIRST)
    assert exact.blocking() == {}
    assert exact.all() == {stream.queue: exact.get(stream)}


def test_a_breaker_that_was_opened_by_a_clock_put_back_since_is_half_open(exact, begin_probe, stream, clock):
    fail(exact, stream)
    clock.advance(-LONGEST_OPEN_SECONDS)
    assert exact.blocking() == {}
    assert exact.state(stream) is CircuitState.HALF_OPEN
    assert begin_probe()
    assert stream.queue in exact.blocking()


def test_the_states_of_a_breaker_from_failure_to_success(exact, begin_probe, redis, stream, clock):
    assert exact.state(stream) is CircuitState.CLOSED
    fail(exact, stream)
    assert exact.state(stream) is CircuitState.OPEN
    clock.advance(FIRST)
    assert exact.state(stream) is CircuitState.HALF_OPEN, "the next batch probes the stream"
    assert begin_probe("one")
    assert exact.state(stream) is CircuitState.HALF_OPEN, "a batch probes the stream"
    fail(exact, stream, "one")
    assert exact.state(stream) is CircuitState.OPEN
    succeed(exact, redis, stream)
    assert exact.state(stream) is CircuitState.CLOSED


def test_an_open_breaker_has_the_time_until_which_it_is_open(exact, stream):
    fail(exact, stream)
    assert exact.get(stream).open_until == "2023-11-14T22:13:24+00:00"


def test_a_paused_breaker_stays_paused(exact, stream, clock):
    exact.pause(stream, "operator")
    clock.advance(1e9)
    assert exact.state(stream) is CircuitState.PAUSED
    assert exact.get(stream).is_paused
    assert exact.get(stream).open_until is None


def test_a_breaker_keeps_the_time_of_its_first_failure(exact, probe, stream, clock):
    assert exact.seconds_failing(stream) == inf
    fail(exact, stream)
    begin = clock.now
    probe()
    assert exact.seconds_failing(stream) == clock.now - begin
    exact.pause(stream, "operator")
    assert exact.seconds_failing(stream) == inf


CORRUPT_ENTRIES = [
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


@pytest.mark.parametrize("where", [PAUSED_KEY, OPEN_KEY])
@pytest.mark.parametrize("text", CORRUPT_ENTRIES)
def test_a_corrupt_entry_pauses_its_stream(breakers, redis, stream, where, text):
    redis.hset(where, stream.queue, text)
    assert breakers.get(stream) == CircuitBreaker(CORRUPT, "")
    assert breakers.blocking() == {stream.queue: CircuitBreaker(CORRUPT, "")}

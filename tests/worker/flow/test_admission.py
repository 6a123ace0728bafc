"""Which batches are admitted to their stream, and how long the others wait."""

import json
from math import inf

import pytest

from schemas.quotas import Quota
from worker.flow.admission import BURST_SECONDS, PROBE_TIMEOUT_SECONDS, Admission, Cost, Decision
from worker.flow.circuit_breakers import OPEN_KEY, PAUSED_KEY, CircuitBreakers
from worker.queues import Stream

AMPLE = Quota(records=10**9, requests=10**9, bytes=10**9)
SMALL = Cost(1, 1)
OPEN_SECONDS = 8
STEP = 0.002
WINDOW = 5


@pytest.fixture
def breakers(redis, clock):
    return CircuitBreakers(redis, clock, jitter=lambda low, high: high)


@pytest.fixture
def acquire(services, stream):
    def acquire(cost=SMALL, quota=AMPLE, of=stream, may_probe=True):
        return services.admission.acquire(of, cost, quota, may_probe)

    return acquire


def test_a_stream_with_a_closed_breaker_flows(acquire):
    assert acquire().admitted


def test_a_paused_stream_has_no_time_to_wait_for(acquire, breakers, stream, clock):
    breakers.pause(stream, "operator")
    clock.advance(10**6)
    assert acquire() == Decision(admitted=False, wait=inf, is_closed=False)
    breakers.resume(stream)
    assert acquire().admitted


def test_an_open_breaker_says_how_long_it_stays_open(acquire, breakers, stream, clock):
    breakers.record_failure(stream, "Service Unavailable", first=OPEN_SECONDS, longest=60)
    clock.advance(3)
    answer = acquire()
    assert not answer.admitted
    assert answer.wait == pytest.approx(OPEN_SECONDS - 3, abs=0.001)


def test_paused_goes_before_open(acquire, breakers, stream, clock):
    breakers.record_failure(stream, "Service Unavailable", first=OPEN_SECONDS, longest=60)
    breakers.pause(stream, "operator")
    clock.advance(OPEN_SECONDS)
    assert acquire() == Decision(admitted=False, wait=inf, is_closed=False)


def test_one_batch_probes_and_no_other_until_the_probe_counts_as_lost(acquire, breakers, stream, clock):
    breakers.record_failure(stream, "Service Unavailable", first=OPEN_SECONDS, longest=60)
    clock.advance(OPEN_SECONDS)
    assert acquire().is_probe
    assert breakers.get(stream).probing
    answer = acquire()
    assert not answer.admitted
    assert answer.wait == pytest.approx(PROBE_TIMEOUT_SECONDS, abs=0.001)
    clock.advance(PROBE_TIMEOUT_SECONDS - 0.01)
    assert not acquire().admitted
    clock.advance(0.01)
    assert acquire().admitted
    assert not acquire().admitted


def test_a_batch_that_may_not_probe_waits_for_another_to(acquire, breakers, stream, clock):
    breakers.record_failure(stream, "Service Unavailable", first=OPEN_SECONDS, longest=60)
    clock.advance(OPEN_SECONDS)
    assert acquire(may_probe=False) == Decision(admitted=False, wait=inf, is_closed=False)
    assert acquire().is_probe


def test_a_batch_that_may_not_probe_may_go_to_a_stream_that_flows(acquire):
    assert acquire(may_probe=False).admitted


def test_a_probe_waits_for_quota_and_spends_it(acquire, breakers, stream, clock):
    quota = AMPLE._replace(requests=1)
    breakers.record_failure(stream, "Service Unavailable", first=OPEN_SECONDS, longest=60)
    clock.advance(OPEN_SECONDS - 0.5)
    breakers.resume(stream)
    assert acquire(quota=quota).admitted
    breakers.record_failure(stream, "Service Unavailable", first=0.5, longest=60)
    clock.advance(0.5)
    assert not acquire(quota=quota).admitted
    assert not breakers.get(stream).probing
    clock.advance(0.5)
    assert acquire(quota=quota).admitted
    assert breakers.get(stream).probing


@pytest.mark.parametrize("where", [PAUSED_KEY, OPEN_KEY])
@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"reason": "operator"}', '{"until": null}'])
def test_a_corrupt_breaker_admits_nothing(acquire, redis, stream, where, text):
    redis.hset(where, stream.queue, text)
    assert acquire() == Decision(admitted=False, wait=inf, is_closed=False)


QUOTAS = {
    # Each batch uses up a hundredth of a second, or a tenth, of the one figure that is scarce.
    "requests": (AMPLE._replace(requests=100), SMALL, 1),
    "records": (AMPLE._replace(records=5_000), Cost(500, 1), 500),
    "bytes": (AMPLE._replace(bytes=1_000_000), Cost(1, 50_000), 50_000),
}


@pytest.mark.parametrize("behind", [0, 0.03])
@pytest.mark.parametrize("kind", QUOTAS)
def test_two_workers_together_take_the_quota_and_hardly_more(redis, stream, clock, kind, behind):
    quota, cost, size = QUOTAS[kind]
    workers = [Admission(redis, clock), Admission(redis, lambda: clock.now - behind)]
    beginning, admitted = clock.now, []
    try_again = [beginning, beginning]
    while clock.now < beginning + 2 * WINDOW:
        for i, worker in enumerate(workers):
            if clock.now >= try_again[i]:
                answer = worker.acquire(stream, cost, quota)
                try_again[i] = clock.now + answer.wait
                if answer.admitted:
                    admitted.append(clock.now)
        clock.advance(STEP)
    allowed = getattr(quota, kind) * WINDOW
    # Every window that begins with a batch: no other holds more of them.
    begins = [at for at in admitted if at <= beginning + WINDOW]
    taken = [size * sum(begin <= at < begin + WINDOW for at in admitted) for begin in begins]
    assert max(taken) <= 1.05 * allowed
    assert min(taken) >= 0.9 * allowed


def test_streams_do_not_share_a_quota(acquire):
    quota = AMPLE._replace(requests=1)
    assert acquire(quota=quota).admitted
    assert not acquire(quota=quota).admitted
    assert acquire(quota=quota, of=Stream("main", "us-east-1", "cruises")).admitted


def test_an_idle_streams_first_batch_goes_at_once_and_idleness_saves_no_quota_up(acquire, clock):
    quota = AMPLE._replace(bytes=1_000)
    clock.advance(3600)
    large = Cost(1, 2_000)
    answer = acquire(large, quota)
    assert answer.admitted
    assert answer.wait == pytest.approx(2 - BURST_SECONDS, abs=0.001)
    assert not acquire(large, quota).admitted
    clock.advance(3600)
    assert acquire(large, quota).admitted
    assert not acquire(large, quota).admitted


def test_a_batch_that_is_not_admitted_spends_no_quota(acquire):
    quota = AMPLE._replace(requests=1)
    acquire(quota=quota)
    first, *others = [acquire(quota=quota).wait for _ in range(5)]
    assert others == [first] * 4


def test_the_usage_of_a_quota_expires_after_it_has_recovered(acquire, redis, stream):
    acquire(Cost(1, 10_000), AMPLE._replace(bytes=1_000))
    assert 10 < redis.ttl(f"audience:quota:{stream.queue}") <= 70


def test_a_raised_quota_counts_for_batches_that_were_admitted_before(acquire):
    low = AMPLE._replace(bytes=1_000)
    batch = Cost(1, 100_000)
    assert acquire(batch, low).wait == pytest.approx(100 - BURST_SECONDS, abs=0.001)
    raised = AMPLE._replace(bytes=1_000_000)
    assert acquire(batch, raised).admitted
    assert not acquire(batch, raised).admitted


def test_a_lowered_quota_counts_at_once(acquire, clock):
    assert acquire(Cost(1, 10_000), AMPLE._replace(bytes=100_000)).admitted
    clock.advance(1)
    low = AMPLE._replace(bytes=1_000)
    assert acquire(Cost(1, 10_000), low).wait == pytest.approx(9 - BURST_SECONDS, abs=0.001)
    clock.advance(9)
    assert acquire(Cost(1, 10_000), low).admitted


def test_a_clock_that_is_put_back_costs_no_more_than_the_quota_that_was_used(acquire, clock):
    quota = AMPLE._replace(bytes=1_000)
    acquire(Cost(1, 2_000), quota)
    clock.advance(-3600)
    assert acquire(Cost(1, 2_000), quota).wait == pytest.approx(2 - BURST_SECONDS, abs=0.001)
    clock.advance(2)
    assert acquire(Cost(1, 2_000), quota).admitted


def test_a_breaker_with_a_probe_in_flight_can_be_read(acquire, breakers, redis, stream, clock):
    breakers.record_failure(stream, "Service Unavailable", first=OPEN_SECONDS, longest=60)
    clock.advance(OPEN_SECONDS)
    acquire()
    assert json.loads(redis.hget(OPEN_KEY, stream.queue))["probing"] is True
    assert breakers.blocking()[stream.queue].failures == 1

"""May a batch go to its stream now?"""

import json
from math import inf

import pytest

from schemas.quotas import Quota
from worker.flow.admission import BURST_SECONDS, PROBE_SECONDS, Admission, Cost, Decision
from worker.flow.circuit_breakers import OPEN, PAUSED, CircuitBreakers
from worker.queues import Stream

AMPLE = Quota(records=10**9, requests=10**9, bytes=10**9)
SMALL = Cost(1, 1)
CLOSED_FOR = 8
STEP = 0.002
WINDOW = 5


@pytest.fixture
def breakers(redis, clock):
    return CircuitBreakers(redis, clock, jitter=lambda low, high: high)


@pytest.fixture
def ask(services, stream):
    def ask(cost=SMALL, quota=AMPLE, of=stream, may_probe=True):
        return services.admission.acquire(of, cost, quota, may_probe)

    return ask


def test_a_stream_without_a_gate_flows(ask):
    assert ask().admitted


def test_a_stream_that_is_closed_until_resumed_has_nothing_to_wait_for(ask, breakers, stream, clock):
    breakers.pause(stream, "operator")
    clock.advance(10**6)
    assert ask() == Decision(admitted=False, wait=inf)
    breakers.resume(stream)
    assert ask().admitted


def test_a_stream_that_is_closed_until_a_time_waits_for_what_is_left(ask, breakers, stream, clock):
    breakers.record_failure(stream, "Service Unavailable", first=CLOSED_FOR, longest=60)
    clock.advance(3)
    answer = ask()
    assert not answer.admitted
    assert answer.wait == pytest.approx(CLOSED_FOR - 3, abs=0.001)


def test_an_operator_s_gate_goes_before_a_timed_one(ask, breakers, stream, clock):
    breakers.record_failure(stream, "Service Unavailable", first=CLOSED_FOR, longest=60)
    breakers.pause(stream, "operator")
    clock.advance(CLOSED_FOR)
    assert ask() == Decision(admitted=False, wait=inf)


def test_one_batch_probes_and_no_other_until_it_must_be_lost(ask, breakers, stream, clock):
    breakers.record_failure(stream, "Service Unavailable", first=CLOSED_FOR, longest=60)
    clock.advance(CLOSED_FOR)
    assert ask().is_probe
    assert breakers.get(stream).probing
    answer = ask()
    assert not answer.admitted
    assert answer.wait == pytest.approx(PROBE_SECONDS, abs=0.001)
    clock.advance(PROBE_SECONDS - 0.01)
    assert not ask().admitted
    clock.advance(0.01)
    assert ask().admitted
    assert not ask().admitted


def test_who_may_not_probe_waits_for_somebody_else_to(ask, breakers, stream, clock):
    breakers.record_failure(stream, "Service Unavailable", first=CLOSED_FOR, longest=60)
    clock.advance(CLOSED_FOR)
    assert ask(may_probe=False) == Decision(admitted=False, wait=inf)
    assert ask().is_probe


def test_who_may_not_probe_may_send_to_a_stream_that_flows(ask):
    assert ask(may_probe=False).admitted


def test_a_probe_takes_its_share_of_the_quota_and_waits_for_it(ask, breakers, stream, clock):
    quota = AMPLE._replace(requests=1)
    breakers.record_failure(stream, "Service Unavailable", first=CLOSED_FOR, longest=60)
    clock.advance(CLOSED_FOR - 0.5)
    breakers.resume(stream)
    assert ask(quota=quota).admitted
    breakers.record_failure(stream, "Service Unavailable", first=0.5, longest=60)
    clock.advance(0.5)
    assert not ask(quota=quota).admitted
    assert not breakers.get(stream).probing
    clock.advance(0.5)
    assert ask(quota=quota).admitted
    assert breakers.get(stream).probing


@pytest.mark.parametrize("where", [PAUSED, OPEN])
@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"reason": "operator"}', '{"until": null}'])
def test_a_spoilt_gate_is_closed(ask, redis, stream, where, text):
    redis.hset(where, stream.queue, text)
    assert ask() == Decision(admitted=False, wait=inf)


QUOTAS = {
    # Each batch uses up a hundredth of a second, or a tenth, of the one figure that is scarce.
    "requests": (AMPLE._replace(requests=100), SMALL, 1),
    "records": (AMPLE._replace(records=5_000), Cost(500, 1), 500),
    "bytes": (AMPLE._replace(bytes=1_000_000), Cost(1, 50_000), 50_000),
}


@pytest.mark.parametrize("behind", [0, 0.03])
@pytest.mark.parametrize("kind", QUOTAS)
def test_two_askers_together_take_the_quota_and_hardly_more(redis, stream, clock, kind, behind):
    quota, cost, size = QUOTAS[kind]
    askers = [Admission(redis, clock), Admission(redis, lambda: clock.now - behind)]
    beginning, admitted = clock.now, []
    ask_again = [beginning, beginning]
    while clock.now < beginning + 2 * WINDOW:
        for i, asker in enumerate(askers):
            if clock.now >= ask_again[i]:
                answer = asker.acquire(stream, cost, quota)
                ask_again[i] = clock.now + answer.wait
                if answer.admitted:
                    admitted.append(clock.now)
        clock.advance(STEP)
    allowed = getattr(quota, kind) * WINDOW
    # Every window that begins with a batch: no other holds more of them.
    begins = [at for at in admitted if at <= beginning + WINDOW]
    taken = [size * sum(begin <= at < begin + WINDOW for at in admitted) for begin in begins]
    assert max(taken) <= 1.05 * allowed
    assert min(taken) >= 0.9 * allowed


def test_streams_do_not_share_a_quota(ask):
    quota = AMPLE._replace(requests=1)
    assert ask(quota=quota).admitted
    assert not ask(quota=quota).admitted
    assert ask(quota=quota, of=Stream("main", "us-east-1", "cruises")).admitted


def test_an_idle_stream_s_first_batch_goes_at_once_and_idleness_saves_nothing_up(ask, clock):
    quota = AMPLE._replace(bytes=1_000)
    clock.advance(3600)
    large = Cost(1, 2_000)
    answer = ask(large, quota)
    assert answer.admitted
    assert answer.wait == pytest.approx(2 - BURST_SECONDS, abs=0.001)
    assert not ask(large, quota).admitted
    clock.advance(3600)
    assert ask(large, quota).admitted
    assert not ask(large, quota).admitted


def test_what_is_not_admitted_uses_nothing_up(ask):
    quota = AMPLE._replace(requests=1)
    ask(quota=quota)
    first, *others = [ask(quota=quota).wait for _ in range(5)]
    assert others == [first] * 4


def test_what_is_known_of_a_quota_is_forgotten_after_it_has_recovered(ask, redis, stream):
    ask(Cost(1, 10_000), AMPLE._replace(bytes=1_000))
    assert 10 < redis.ttl(f"audience:quota:{stream.queue}") <= 70


def test_a_raised_quota_counts_for_what_was_admitted_before(ask):
    low = AMPLE._replace(bytes=1_000)
    batch = Cost(1, 100_000)
    assert ask(batch, low).wait == pytest.approx(100 - BURST_SECONDS, abs=0.001)
    raised = AMPLE._replace(bytes=1_000_000)
    assert ask(batch, raised).admitted
    assert not ask(batch, raised).admitted


def test_a_lowered_quota_counts_at_once(ask, clock):
    assert ask(Cost(1, 10_000), AMPLE._replace(bytes=100_000)).admitted
    clock.advance(1)
    low = AMPLE._replace(bytes=1_000)
    assert ask(Cost(1, 10_000), low).wait == pytest.approx(9 - BURST_SECONDS, abs=0.001)
    clock.advance(9)
    assert ask(Cost(1, 10_000), low).admitted


def test_a_clock_that_is_put_back_costs_no_more_than_what_was_used(ask, clock):
    quota = AMPLE._replace(bytes=1_000)
    ask(Cost(1, 2_000), quota)
    clock.advance(-3600)
    assert ask(Cost(1, 2_000), quota).wait == pytest.approx(2 - BURST_SECONDS, abs=0.001)
    clock.advance(2)
    assert ask(Cost(1, 2_000), quota).admitted


def test_a_probing_gate_can_still_be_read(ask, breakers, redis, stream, clock):
    breakers.record_failure(stream, "Service Unavailable", first=CLOSED_FOR, longest=60)
    clock.advance(CLOSED_FOR)
    ask()
    assert json.loads(redis.hget(OPEN, stream.queue))["probing"] is True
    assert breakers.blocking()[stream.queue].failures == 1

"""A Redis that has no room left. What it holds is still delivered or kept, and that makes room."""

import json

import pytest
from redis.exceptions import OutOfMemoryError

from devstack.firehose import error, fail, refuse_once
from schemas.quotas import Quota
from worker.failures.alert_types import AlertType, Failure
from worker.failures.alerts import ALERTS, MAX_ALERTS
from worker.failures.dead_lettering import Undeliverable
from worker.failures.dead_letters import Message
from worker.flow.admission import Cost
from worker.flow.circuit_breakers import CircuitState
from worker.queues import CHANGES_QUEUE
from worker.state.idempotency import IdempotencyState

TROUBLE = Failure(AlertType.INTERNAL_SERVER_ERROR, "OutOfMemory", "nearly full")


@pytest.fixture
def redis(real_redis):
    return real_redis


@pytest.fixture
def fill(redis):
    """Have Redis be full from now on."""

    def limit():
        redis.config_set("maxmemory", 1)
        with pytest.raises(OutOfMemoryError):
            redis.set("anything", 1)

    return limit


def test_with_a_full_redis_a_batch_is_delivered_once_and_counted(deliver, fill, firehose, services, stream):
    fill()
    deliver("a", "b", task_id="one")
    deliver("a", "b", task_id="one")
    assert firehose.accepted("travel") == [b"a", b"b"]
    assert services.counters.of(stream).delivered == 2
    assert not services.redis.keys("audience:claims:*")


def test_with_a_full_redis_only_refused_records_are_sent_again(deliver, fill, firehose, services, stream):
    fill()
    firehose.faults.append(refuse_once(b"b"))
    deliver("a", "b", "c")
    assert firehose.accepted("travel") == [b"a", b"c", b"b"]
    assert services.counters.of(stream).retrying == 0


def test_with_a_full_redis_failures_and_probes_of_a_stream_are_recorded(fill, services, stream):
    fill()
    ask = (stream, Cost(records=1, bytes=1), Quota(1000, 1000, 1000))
    for failures in 1, 2:
        assert services.circuit_breakers.record_failure(stream, "Service Unavailable", 0, 0) == failures
        assert services.admission.acquire(*ask).is_probe
    assert not services.admission.acquire(*ask).admitted
    services.circuit_breakers.release_probe(stream)
    assert services.circuit_breakers.state(stream) is CircuitState.HALF_OPEN


def test_a_full_redis_stores_dead_letters_and_raises_their_alerts(deliver, fill, firehose, services, stream):
    fill()
    firehose.faults.append(fail(error("AccessDeniedException", 400)))
    deliver("a")
    (letter,), (alert,) = services.dead_letters.all(), services.alerts.all()
    assert (letter.records, alert.dead_letter_id) == (1, letter.id)
    assert services.circuit_breakers.get(stream).until is None


def test_with_a_full_redis_deaths_of_processes_over_a_message_are_counted(fill, services):
    fill()
    assert services.idempotency.acquire("one", 0, "me") is IdempotencyState.ACQUIRED
    assert [services.idempotency.record_lost_worker("one", 0) for _ in range(2)] == [1, 2]
    assert services.idempotency.acquire("one", 0, "me") is IdempotencyState.ACQUIRED


def test_with_a_full_redis_a_warning_is_raised(fill, services):
    fill()
    assert services.alerts.start_cooldown("memory")
    assert not services.alerts.start_cooldown("memory")
    services.alerts.raise_alert(TROUBLE)
    assert [alert.message for alert in services.alerts.all()] == ["nearly full"]


def test_with_a_full_redis_invalid_changes_stay_in_the_broker(fill, worker, services):
    fill()
    with pytest.raises(OutOfMemoryError):
        services.dead_lettering.dead_letter(
            Undeliverable("one", Message("task", "queue", {}), TROUBLE, records=1)
        )
    worker.send("audience.forward", {"changes": [{"no": "change"}]})
    worker.run_one(CHANGES_QUEUE)
    assert len(worker.waiting(CHANGES_QUEUE)) == 1
    assert not services.dead_letters.all()


def test_with_a_full_redis_operators_connect_and_disconnect_streams(fill, connect, services):
    fill()
    stream = connect()
    (identifier,) = services.registry.refresh().connections_to(stream)
    services.registry.disconnect(identifier)
    assert not services.registry.refresh().connections


def test_with_a_full_redis_operators_acknowledge_all_alerts(fill, redis, services):
    services.alerts.raise_alert(TROUBLE)
    entry = json.loads(redis.lindex(ALERTS, 0))
    redis.lpush(ALERTS, *(json.dumps(entry | {"id": str(number)}) for number in range(1, MAX_ALERTS)))
    fill()
    assert services.alerts.acknowledge_all() == MAX_ALERTS


def test_with_a_full_redis_operators_pause_and_resume_streams(fill, services, stream):
    fill()
    services.circuit_breakers.pause(stream, "operator")
    assert services.circuit_breakers.get(stream).reason == "operator"
    assert services.circuit_breakers.resume(stream)
    assert services.circuit_breakers.get(stream) is None


def test_with_a_full_redis_dead_letters_are_discarded(deliver, fill, firehose, services, stream):
    firehose.faults.append(fail(error("AccessDeniedException", 400)))
    deliver("a")
    fill()
    (letter,) = services.dead_letters.all()
    services.dead_lettering.discard(letter)
    assert not services.dead_letters.all()
    assert services.counters.of(stream).discarded == 1
    assert list(services.alerts.states().values()) == ["resolved"]

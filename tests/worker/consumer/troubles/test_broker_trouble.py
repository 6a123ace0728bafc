"""A broker that answers and cannot serve raises one alert."""

import logging
from types import SimpleNamespace

import pytest
from celery.exceptions import WorkerShutdown
from celery.worker import state
from redis.exceptions import ConnectionError

from worker.broker.redis.client import UNAVAILABLE, ServerUnavailable
from worker.consumer.troubles import broker_trouble
from worker.consumer.troubles.broker_trouble import ADVICE, BrokerTrouble


@pytest.fixture
def consumer(services):
    return SimpleNamespace(app=SimpleNamespace(services=services), hostname="worker@host")


@pytest.fixture
def responses(monkeypatch):
    """What the broker answers to the attempts to write, one after another; then it can serve."""
    responses = []

    def try_write(app):
        if responses:
            raise responses.pop(0)

    monkeypatch.setattr(broker_trouble, "try_write", try_write)
    return responses


@pytest.fixture
def step(consumer, clock, responses):
    return BrokerTrouble(consumer, clock.advance)


def unavailable(code="READONLY"):
    return ServerUnavailable(f"Redis responds {code}")


def alerts(consumer):
    return [(alert.type, alert.error_code) for alert in consumer.app.services.alerts.all()]


def test_the_alert_names_the_worker_the_code_and_what_to_do(step, consumer):
    step.lost(consumer, unavailable())
    (alert,) = consumer.app.services.alerts.all()
    assert (alert.type, alert.severity, alert.error_code) == ("Worker Trouble", "warning", "READONLY")
    assert "worker@host" in alert.message
    assert ADVICE["READONLY"] in alert.message


def test_a_broker_that_is_lost_again_and_again_raises_one_alert(step, consumer):
    for _ in range(3):
        step.lost(consumer, unavailable())
        step.start(consumer)
    (alert,) = consumer.app.services.alerts.all()
    assert alert.occurrences == 1


def test_an_alert_that_cannot_be_stored_is_stored_when_the_worker_is_connected_again(
    step, consumer, redis_server
):
    redis_server.connected = False
    step.lost(consumer, unavailable("MISCONF"))
    redis_server.connected = True
    assert alerts(consumer) == []
    step.start(consumer)
    assert alerts(consumer) == [("Worker Trouble", "MISCONF")]


def test_a_broker_that_is_away_is_no_alert(step, consumer):
    step.lost(consumer, ConnectionError())
    assert alerts(consumer) == []


def test_there_is_advice_for_each_code():
    assert ADVICE.keys() == set(UNAVAILABLE)


def test_a_worker_waits_with_backoff_until_the_broker_can_serve(step, consumer, responses, clock, caplog):
    responses += [unavailable("NOREPLICAS")] * 2000
    began = clock()
    with caplog.at_level(logging.INFO):
        step.lost(consumer, unavailable("NOREPLICAS"))
    assert responses == []
    assert 2000 * 2 < clock() - began < 2000 * 5
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "can serve again" in caplog.text


def test_a_worker_connects_again_where_the_broker_is_away_now(step, consumer, responses, caplog):
    responses += [ConnectionError(), unavailable()]
    step.lost(consumer, unavailable())
    assert len(responses) == 1
    assert "again" not in caplog.text


def test_a_signal_ends_a_worker_that_waits(step, consumer, responses, monkeypatch):
    responses += [unavailable()] * 2000
    monkeypatch.setattr(state, "should_stop", 0)
    with pytest.raises(WorkerShutdown):
        step.lost(consumer, unavailable())
    assert len(responses) == 2000

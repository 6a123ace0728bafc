"""A broker that answers and cannot serve raises one alert."""

from types import SimpleNamespace

import pytest
from redis.exceptions import ConnectionError

from worker.broker.redis.client import UNAVAILABLE, ServerUnavailable
from worker.consumer.broker_trouble import ADVICE, BrokerTrouble


@pytest.fixture
def consumer(services):
    return SimpleNamespace(app=SimpleNamespace(services=services), hostname="worker@host")


@pytest.fixture
def step(consumer):
    return BrokerTrouble(consumer)


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

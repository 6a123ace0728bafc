"""A state that did not answer raises an alert once it answers again."""

import pytest
from redis.exceptions import ConnectionError, TimeoutError

from worker.consumer.troubles.state_trouble import LASTS_AFTER_SECONDS, StateTrouble


@pytest.fixture
def trouble(services, clock):
    return StateTrouble(services.alerts, clock)


def test_a_trouble_that_lasted_is_one_alert_that_says_how_long(trouble, services, clock):
    clock.advance(100)
    trouble.end()
    clock.advance(7)
    trouble.begin(ConnectionError())
    clock.advance(5)
    trouble.begin(TimeoutError())
    assert services.alerts.all() == []
    trouble.end()
    trouble.end()
    (alert,) = services.alerts.all()
    assert (alert.type, alert.severity, alert.error_code) == ("Worker Trouble", "warning", "StateUnavailable")
    assert "for 12 s (TimeoutError), and does again" in alert.message


def test_a_failover_that_is_soon_over_is_no_alert(trouble, services, clock):
    trouble.begin(ConnectionError())
    clock.advance(LASTS_AFTER_SECONDS - 1)
    trouble.end()
    assert services.alerts.all() == []


def test_a_worker_that_was_busy_for_long_has_no_trouble(trouble, services, clock):
    clock.advance(100)
    trouble.end()
    assert services.alerts.all() == []


def test_each_trouble_is_measured_by_itself(trouble, services, clock):
    for _ in range(3):
        trouble.begin(ConnectionError())
        clock.advance(LASTS_AFTER_SECONDS - 1)
        trouble.end()
    assert services.alerts.all() == []


def test_two_workers_raise_one_alert(services, clock):
    workers = [StateTrouble(services.alerts, clock) for _ in range(2)]
    for worker in workers:
        worker.begin(ConnectionError())
    clock.advance(10)
    for worker in workers:
        worker.end()
    (alert,) = services.alerts.all()
    assert alert.occurrences == 1


def test_an_alert_that_cannot_be_stored_is_stored_later(trouble, services, clock, redis_server):
    trouble.begin(ConnectionError())
    clock.advance(10)
    redis_server.connected = False
    trouble.end()
    redis_server.connected = True
    trouble.end()
    assert [alert.error_code for alert in services.alerts.all()] == ["StateUnavailable"]

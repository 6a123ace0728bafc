"""Events that the broker does not accept delay nothing."""

import pytest
from celery import Celery
from clock import Clock
from kombu.exceptions import OperationalError

from worker.consumer.monitoring.events import PAUSE_AFTER_FAILURE_SECONDS, BoundedDispatcher


class Producer:
    """Publishes what it can."""

    def __init__(self):
        self.is_connected = True
        self.attempts, self.sent, self.options = 0, [], {}

    def publish(self, event, **options):
        self.attempts += 1
        self.options = options
        if not self.is_connected:
            raise OperationalError
        self.sent.append(event["type"])


@pytest.fixture
def producer():
    return Producer()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def dispatcher(producer, clock):
    app = Celery("some-app", broker="memory://", set_as_current=False)
    dispatcher = BoundedDispatcher(app.connection_for_write(), app=app, monotonic=clock)
    dispatcher.producer = producer
    return dispatcher


def test_an_event_is_sent_once_for_a_bounded_time(dispatcher, producer):
    dispatcher.send("worker-heartbeat", retry=True)
    assert producer.sent == ["worker-heartbeat"]
    assert not producer.options.get("retry")
    assert producer.options["timeout"] > 0


def test_after_a_failure_no_event_is_tried_until_the_cooldown_is_over(dispatcher, producer, clock):
    producer.is_connected = False
    for _ in range(3):
        dispatcher.send("worker-heartbeat", retry=True)
    assert producer.attempts == 1
    producer.is_connected = True
    clock.now += PAUSE_AFTER_FAILURE_SECONDS
    dispatcher.send("worker-heartbeat", retry=True)
    assert producer.sent == ["worker-heartbeat"]


def test_the_workers_app_sends_its_events_by_the_bounded_dispatcher():
    from worker.celery import app

    assert issubclass(app.events.Dispatcher, BoundedDispatcher)

"""A queue that RabbitMQ does not serve is left out, and tried until it is served."""

from types import SimpleNamespace

import pytest
from kombu import Queue

from worker.consumer.task_consumer import TaskConsumer
from worker.consumer.troubles import queue_troubles
from worker.consumer.troubles.queue_troubles import TRIAL_INTERVAL_SECONDS, QueueTroubles


class Channel:
    """Accepts consumers of queues."""

    connection = None

    def __init__(self):
        self.consumed = []

    def __call__(self):
        return self

    def basic_consume(self, queue, **options):
        self.consumed.append(queue)


@pytest.fixture
def unserved(monkeypatch):
    """The queues that RabbitMQ does not serve."""
    unserved = set()
    monkeypatch.setattr(queue_troubles, "unserved", lambda _, queues: sorted(unserved & set(queues)))
    return unserved


@pytest.fixture
def consumer(services):
    """The parts of Celery's consumer that the step needs."""
    queues = [Queue(name) for name in ("a", "b", "c")]
    return SimpleNamespace(
        app=SimpleNamespace(services=services),
        hostname="worker@host",
        task_consumer=TaskConsumer(Channel(), queues, auto_declare=False),
        timer=SimpleNamespace(call_repeatedly=lambda *_: SimpleNamespace(cancel=lambda: None)),
    )


@pytest.fixture
def step(consumer, clock):
    return QueueTroubles(consumer, clock)


def begin(step, consumer):
    """Connect, and begin to consume, as Celery does."""
    step.start(consumer)
    consumer.task_consumer.consume()


def consumed(consumer):
    return consumer.task_consumer.channel.consumed


def alerts(consumer):
    return [(alert.type, alert.error_code) for alert in consumer.app.services.alerts.all()]


def test_other_queues_are_consumed_without_it(step, consumer, unserved):
    unserved.add("b")
    begin(step, consumer)
    assert consumed(consumer) == ["a", "c"]


def test_a_queue_that_rabbitmq_serves_again_is_consumed(step, consumer, unserved):
    unserved.add("b")
    begin(step, consumer)
    unserved.clear()
    step.check(consumer)
    assert consumed(consumer) == ["a", "c", "b"]
    assert alerts(consumer) == []


def test_an_unserved_queue_is_tried_at_intervals_and_reported_once(step, consumer, unserved, clock):
    unserved.add("b")
    begin(step, consumer)
    for _ in range(2):
        step.check(consumer)
        clock.advance(TRIAL_INTERVAL_SECONDS)
    assert alerts(consumer) == [("Worker Trouble", "QueueUnavailable")]
    unserved.clear()
    step.check(consumer)
    assert consumed(consumer) == ["a", "c", "b"]


def test_between_two_trials_nothing_is_asked(step, consumer, unserved):
    unserved.add("b")
    begin(step, consumer)
    step.check(consumer)
    unserved.clear()
    step.check(consumer)
    assert "b" not in consumed(consumer)


def test_unserved_queues_are_tried_round_robin(step, consumer, unserved, clock):
    unserved |= {"a", "b"}
    begin(step, consumer)
    step.check(consumer)
    unserved.remove("b")
    clock.advance(TRIAL_INTERVAL_SECONDS)
    step.check(consumer)
    assert consumed(consumer) == ["c", "b"]


def test_another_connection_begins_anew(step, consumer, unserved):
    unserved.add("b")
    begin(step, consumer)
    unserved.clear()
    consumer.task_consumer = TaskConsumer(Channel(), [Queue("a"), Queue("b")], auto_declare=False)
    begin(step, consumer)
    assert consumed(consumer) == ["a", "b"]

"""Task events are sent while somebody listens, and a few times a second."""

from itertools import takewhile
from types import SimpleNamespace

import pytest
from celery import Celery, bootsteps
from kombu import Connection
from redis import Redis
from redis.exceptions import ConnectionError

from worker.broker.redis.transport import Transport
from worker.consumer.monitoring import task_events
from worker.consumer.monitoring.task_events import TASK_EVENTS, TaskEvents, count_listeners

MONITOR = "*celeryev/*"
"""The pattern to which a monitor such as Flower subscribes."""
END = "celeryev/end"
OTHER_WORKER = "*celeryev/worker.*"
"""The pattern to which workers subscribe, to hear of each other."""


class Timer:
    """Runs a callback only when the test says so."""

    def __init__(self):
        self.once = []

    def call_repeatedly(self, seconds, call, args):
        return SimpleNamespace(cancel=lambda: None)

    def call_after(self, seconds, call, args):
        entry = (call, args)
        self.once.append(entry)
        return SimpleNamespace(cancel=lambda: self.once.remove(entry) if entry in self.once else None)

    def run(self):
        for call, args in list(self.once):
            call(*args)


@pytest.fixture
def listen(real_redis):
    """Begin to listen to a pattern of topics."""

    def listen(pattern):
        listener = real_redis.pubsub()
        listener.psubscribe(pattern)
        assert listener.get_message(timeout=5)["type"] == "psubscribe"
        return listener

    return listen


@pytest.fixture
def dispatcher(real_redis_url, real_redis):
    with Celery(broker=real_redis_url) as app, Connection(real_redis_url, transport=Transport) as connection:
        yield app.events.Dispatcher(connection, groups=["worker"], buffer_group=[TASK_EVENTS])


@pytest.fixture
def consumer(dispatcher):
    blueprint = SimpleNamespace(state=bootsteps.RUN)
    return SimpleNamespace(event_dispatcher=dispatcher, timer=Timer(), blueprint=blueprint)


@pytest.fixture
def step(consumer):
    return TaskEvents(consumer)


def task_events_of(listener):
    """How many broadcasts of task events, of at least one event, a listener has received."""
    # It comes after all that was published before it.
    Redis(connection_pool=listener.connection_pool).publish(END, "")
    received = takewhile(lambda message: message["channel"] != END, listener.listen())
    # "W10=" is base64 for "[]".
    return sum("task.multi" in message["channel"] and "W10=" not in message["data"] for message in received)


def test_nobody_listening_turns_task_events_off_and_leaves_heartbeats_on(step, dispatcher):
    dispatcher.groups.add(TASK_EVENTS)
    step.check(dispatcher)
    assert dispatcher.groups == {"worker"}


def test_another_worker_is_no_listener(step, dispatcher, listen):
    listen(OTHER_WORKER)
    step.check(dispatcher)
    assert dispatcher.groups == {"worker"}


def test_a_monitor_turns_task_events_on_until_it_is_gone(step, dispatcher, listen):
    monitor = listen(MONITOR)
    step.check(dispatcher)
    assert dispatcher.groups == {"worker", TASK_EVENTS}
    assert task_events_of(monitor) == 0
    monitor.punsubscribe()
    assert monitor.get_message(timeout=5)["type"] == "punsubscribe"
    step.check(dispatcher)
    assert dispatcher.groups == {"worker"}


def test_a_worker_that_was_started_with_task_events_sends_them_to_nobody_too(step, dispatcher):
    dispatcher.groups.clear()
    step.check(dispatcher)
    assert dispatcher.groups == set()


@pytest.mark.parametrize("groups", [{"worker"}, {"worker", TASK_EVENTS}])
def test_a_broker_that_cannot_count_listeners_leaves_task_events_as_they_are(step, groups):
    with Celery(broker="memory://") as app, app.connection() as connection:
        dispatcher = app.events.Dispatcher(connection, groups=groups)
        assert count_listeners(dispatcher) is None
        step.check(dispatcher)
        assert dispatcher.groups == groups


@pytest.mark.parametrize("groups", [{"worker"}, {"worker", TASK_EVENTS}])
def test_a_broker_that_is_away_changes_nothing(step, dispatcher, groups, monkeypatch):
    def fail(dispatcher):
        raise ConnectionError

    monkeypatch.setattr(task_events, "count_listeners", fail)
    dispatcher.groups = set(groups)
    step.check(dispatcher)
    assert dispatcher.groups == groups


def test_the_events_of_many_tasks_are_one_broadcast(step, consumer, dispatcher, listen):
    monitor = listen(MONITOR)
    step.start(consumer)
    for number in range(100):
        dispatcher.send("task-received", uuid=str(number))
    assert len(consumer.timer.once) == 1
    assert task_events_of(monitor) == 0
    consumer.timer.run()
    assert task_events_of(monitor) == 1


def test_events_after_a_broadcast_are_broadcast_too(step, consumer, dispatcher, listen):
    monitor = listen(MONITOR)
    step.start(consumer)
    for number in range(3):
        dispatcher.send("task-received", uuid=str(number))
        consumer.timer.run()
    assert task_events_of(monitor) == 3


def test_a_worker_that_stops_sends_what_is_buffered(step, consumer, dispatcher, listen):
    monitor = listen(MONITOR)
    step.start(consumer)
    dispatcher.send("task-succeeded", uuid="1")
    consumer.blueprint.state = bootsteps.CLOSE
    step.stop(consumer)
    assert task_events_of(monitor) == 1


def test_a_worker_that_has_lost_its_connection_sends_nothing_over_it(step, consumer, dispatcher, listen):
    monitor = listen(MONITOR)
    step.start(consumer)
    dispatcher.send("task-succeeded", uuid="1")
    step.stop(consumer)
    assert task_events_of(monitor) == 0


def test_after_a_reconnect_events_are_sent_although_old_timers_are_gone(step, consumer, dispatcher, listen):
    monitor = listen(MONITOR)
    step.start(consumer)
    dispatcher.send("task-received", uuid="1")
    consumer.timer = Timer()
    step.start(consumer)
    dispatcher.send("task-received", uuid="2")
    consumer.timer.run()
    assert task_events_of(monitor) == 1

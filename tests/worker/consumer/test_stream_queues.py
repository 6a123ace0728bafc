"""Which queues a worker consumes, also after the broker has refused one."""

from types import SimpleNamespace

import pytest
from celery import Celery

from worker.consumer.stream_queues import RECONCILE_INTERVAL_SECONDS, REDECLARE_SECONDS, StreamQueues
from worker.flow.circuit_breakers import OPERATOR
from worker.state.registry import REFRESH_AFTER_SECONDS


class Refusal(Exception):
    """The error with which a broker closes a channel."""


class Declared(SimpleNamespace):
    """A queue on a channel."""

    no_declare = False


class Broker:
    """A broker, and Celery's consumer of it: a refusal closes the channel with all that it consumed."""

    channel = None

    def __init__(self):
        self.queues = set()
        self.consumed = set()
        self.declarations = []
        self.conflicting = set()
        """Queues that exist with other properties: declaring them is refused."""
        self.before_answer = lambda: None
        self._added = {}

    def add_queue(self, queue):
        if not queue.no_declare:
            self._refuse(queue.name in self.conflicting)
            self.declarations.append(queue.name)
            self.queues.add(queue.name)
        added = self._added[queue.name] = Declared(name=queue.name, no_declare=queue.no_declare)
        return added

    no_ack = False

    def consume(self):
        for name in self._added:
            self._refuse(name not in self.queues)
        self.consumed = set(self._added)

    def _basic_consume(self, queue, no_ack, nowait):
        self._refuse(queue.name not in self.queues)
        self.before_answer()
        if queue.name in self._added:
            self.consumed.add(queue.name)

    def consuming_from(self, name):
        return name in self._added

    def cancel_by_queue(self, name):
        self._added.pop(name, None)
        self.consumed.discard(name)

    def connect(self, queues):
        """A new connection, over which Celery consumes the queues that it knows."""
        self._added.clear()
        for queue in queues.values():
            self.add_queue(queue)

    def _refuse(self, is_refused):
        if is_refused:
            self.consumed = set()
            raise Refusal


class Timer:
    """Makes its calls when a test says so, unless they were cancelled."""

    def __init__(self):
        self.calls = []

    def call_after(self, seconds, function, arguments=()):
        call = SimpleNamespace(function=function, arguments=arguments, cancel=lambda: self.calls.remove(call))
        self.calls.append(call)
        return call

    call_repeatedly = call_after

    def fire(self):
        for call in list(self.calls):
            call.function(*call.arguments)


class Worker:
    """A worker whose event loop makes one round when a test says so."""

    channel_errors = (Refusal,)

    def __init__(self, services, clock):
        self.app = Celery(broker="memory://", set_as_current=False)
        self.app.services = services
        self.timer = Timer()
        self.task_consumer = Broker()
        self.flow_control = SimpleNamespace(reconnected=lambda message_ids: None)
        self.connections = 0
        self.step = StreamQueues(self, monotonic=clock)
        self.connect()

    @property
    def broker(self):
        return self.task_consumer

    def connect(self):
        self.connections += 1
        self.broker.connect(self.app.amqp.queues.consume_from)
        self.step.start(self)
        self.broker.consume()

    def go_round(self):
        try:
            self.timer.fire()
        except ConnectionError:
            self.step.stop(self)
            self.connect()


@pytest.fixture
def worker(services, clock):
    services.registry.configure("main")
    return Worker(services, clock)


@pytest.fixture
def connect(services, worker):
    """Connect a new stream and have the worker reconcile; the stream."""

    def connect(name):
        settings = {"configuration": "main", "delivery_stream_name": name, "region": "us-east-1"}
        services.registry.connect(audience_id=1, **settings)
        worker.go_round()
        return next(s for s in services.registry.refresh().streams if s.name == name)

    return connect


def test_a_queue_that_is_paused_and_resumed_is_declared_once(worker, connect):
    queue = connect("travel").queue
    for _ in range(3):
        worker.step.pause(queue)
        assert queue not in worker.broker.consumed
        worker.step.resume(queue)
        assert queue in worker.broker.consumed
    assert worker.broker.declarations.count(queue) == 1


def test_a_queue_that_a_remote_control_command_has_cancelled_is_consumed_again(worker, connect):
    queue = connect("travel").queue
    worker.app.amqp.queues.deselect(queue)
    worker.broker.cancel_by_queue(queue)
    worker.go_round()
    assert queue in worker.broker.consumed


def test_a_queue_that_is_paused_stays_so_when_the_worker_reconciles(worker, connect):
    queue = connect("travel").queue
    worker.step.pause(queue)
    worker.go_round()
    assert queue not in worker.broker.consumed


def test_a_queue_that_is_paused_before_the_broker_answers_is_not_consumed_until_resumed(worker, connect):
    queue = connect("travel").queue
    worker.step.pause(queue)
    worker.broker.before_answer = lambda: worker.step.pause(queue)
    worker.step.resume(queue)
    worker.broker.before_answer = lambda: None
    assert queue not in worker.broker.consumed
    worker.step.resume(queue)
    assert queue in worker.broker.consumed


def test_the_deleted_queue_of_a_paused_stream_is_declared_again_when_it_is_resumed(services, worker, connect):
    stream = connect("travel")
    services.circuit_breakers.pause(stream, OPERATOR)
    worker.go_round()
    worker.broker.queues.remove(stream.queue)
    services.circuit_breakers.resume(stream)
    worker.go_round()
    assert stream.queue in worker.broker.consumed
    assert worker.connections == 1


def test_celery_forgets_the_queue_of_a_disconnected_stream(services, worker, connect):
    queue = connect("travel").queue
    assert queue in worker.app.amqp.queues
    for connection in services.registry.refresh().connections:
        services.registry.disconnect(connection)
    worker.go_round()
    assert queue not in worker.app.amqp.queues


def test_a_paused_queue_that_was_deleted_is_declared_again_on_a_new_connection(worker, connect):
    queue, other = connect("travel").queue, connect("other").queue
    worker.step.pause(queue)
    worker.broker.queues.remove(queue)
    worker.step.resume(queue)
    assert not worker.broker.consumed
    worker.go_round()
    assert {queue, other} <= worker.broker.consumed
    assert worker.connections == 2
    worker.go_round()
    assert worker.connections == 2


def test_a_queue_that_cannot_be_declared_does_not_stop_the_others(worker, connect, clock):
    other = connect("other").queue
    conflicting = "firehose.main.us-east-1.conflicting"
    worker.broker.conflicting.add(conflicting)
    connect("conflicting")
    for _ in range(3):
        worker.go_round()
        assert other in worker.broker.consumed
    assert worker.connections == 2
    worker.broker.conflicting.clear()
    clock.advance(REDECLARE_SECONDS + 1)
    worker.go_round()
    assert conflicting in worker.broker.consumed
    assert worker.connections == 2


def test_a_worker_that_nothing_has_changed_for_computes_no_queues_again(worker, connect):
    connect("travel")
    wanted, connected = worker.step._wanted, worker.step._connected
    for _ in range(3):
        worker.go_round()
    assert worker.step._wanted is wanted
    assert worker.step._connected is connected


def test_a_new_connection_is_looked_for_within_the_five_seconds_of_the_contract():
    assert RECONCILE_INTERVAL_SECONDS + REFRESH_AFTER_SECONDS < 5

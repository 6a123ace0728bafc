"""Messages that RabbitMQ has sent ahead wait in the worker for room in its pool; each queue has its turn."""

from types import SimpleNamespace

import pytest
from flow import Message, StreamQueues, Timer, request

from worker.broker.messages import read_task_call
from worker.consumer.flow_control import make_flow_control
from worker.queues import Stream

POOL = 8
START = POOL // 4
"""A stream's first concurrency limit."""
ONE, ANOTHER = (Stream("main", "us-east-1", name) for name in ("one", "another"))


class Worker:
    """A worker over RabbitMQ: which messages its pool has."""

    def __init__(self, services, clock):
        self.timer, self.queues, self.pool = Timer(), StreamQueues(), []
        consumer = SimpleNamespace(
            pool=SimpleNamespace(num_processes=POOL),
            controller=SimpleNamespace(autoscaler=None),
            timer=self.timer,
            stream_queues=self.queues,
            task_buckets={},
            disable_rate_limits=False,
            hostname="worker1@example",
        )
        self.control = make_flow_control(
            consumer,
            admission=services.admission,
            circuit_breakers=services.circuit_breakers,
            registry=services.registry,
            alerts=services.alerts,
            counters=services.counters,
            sends_ahead=True,
            clock=clock,
            monotonic=clock,
        )

    def receive(self, stream, number):
        """RabbitMQ sends a message."""
        message = Message(stream.queue, number=number)
        self._handle(message)
        return message

    def end(self, number=0):
        """The pool ends one of its messages."""
        ended = self.pool.pop(number)
        ended.on_end(ended)
        self.timer.fire()

    def _handle(self, message):
        if self.control.admit(message, read_task_call(message), lambda: self._handle(message)):
            entered = request(message.delivery_info["routing_key"], message.headers["id"])
            self.control.message_enters(entered)
            self.pool.append(entered)


@pytest.fixture
def worker(services, clock):
    return Worker(services, clock)


def test_messages_over_a_streams_limit_wait_in_the_worker_and_its_queue_stays_consumed(worker):
    messages = [worker.receive(ONE, number) for number in range(POOL)]
    assert len(worker.pool) == START
    assert not any(message.is_requeued for message in messages)
    assert not worker.queues.paused


def test_a_message_that_ends_makes_room_for_those_that_wait_and_raises_the_limit(worker):
    for number in range(POOL):
        worker.receive(ONE, number)
    worker.end()
    assert [request.id for request in worker.pool] == ["1", "2", "3"]


def test_no_more_messages_of_streams_enter_than_the_pool_has_processes(worker):
    streams = [Stream("main", "us-east-1", f"s{number}") for number in range(POOL)]
    for number, stream in enumerate(streams * 2):
        worker.receive(stream, number)
    assert len(worker.pool) == POOL


def test_streams_whose_messages_wait_have_their_turn_one_after_another(worker):
    fillers = [Stream("main", "us-east-1", f"filler{number}") for number in range(POOL)]
    for stream in fillers:
        worker.receive(stream, stream.name)
    for number in range(2):
        worker.receive(ONE, f"one{number}")
    for number in range(2):
        worker.receive(ANOTHER, f"another{number}")
    for _ in range(4):
        worker.end()
    assert [request.id for request in worker.pool[4:]] == ["one0", "another0", "one1", "another1"]


def test_a_waiting_message_whose_stream_was_paused_is_requeued_when_its_turn_comes(worker, services):
    messages = [worker.receive(ONE, number) for number in range(START + 1)]
    services.circuit_breakers.pause(ONE, "operator")
    worker.end()
    assert messages[-1].is_requeued


def test_what_waits_is_forgotten_when_the_broker_was_lost(worker):
    for number in range(POOL):
        worker.receive(ONE, number)
    worker.control.reconnected({"0", "1"})
    worker.end()
    assert [request.id for request in worker.pool] == ["1"]

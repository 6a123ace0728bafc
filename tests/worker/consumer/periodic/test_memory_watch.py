"""A Redis that fills up: when operators are alerted, and when changes stay in their queue."""

from types import SimpleNamespace

import pytest
from redis.exceptions import ConnectionError

from worker.consumer.periodic import memory_watch
from worker.consumer.periodic.memory_watch import MemoryWatch, fullness
from worker.queues import CHANGES_QUEUE

LIMIT = 1000


class Consumer:
    """The parts of Celery's consumer that the step uses."""

    def __init__(self, services, selected=None):
        queues = SimpleNamespace(_consume_from=selected)
        self.app = SimpleNamespace(services=services, amqp=SimpleNamespace(queues=queues))
        self.task_consumer = self
        self.queues = {CHANGES_QUEUE}

    def consuming_from(self, queue):
        return queue in self.queues

    def cancel_task_queue(self, queue):
        self.queues.remove(queue)

    def add_task_queue(self, queue):
        self.queues.add(queue)


class Server:
    """A Redis that reports its memory, or is away."""

    used = 0
    policy = "noeviction"
    connection_pool = SimpleNamespace(connection_kwargs={})

    def info(self, section):
        if self.used is None:
            raise ConnectionError
        return {"used_memory": self.used, "maxmemory": LIMIT, "maxmemory_policy": self.policy}


@pytest.fixture
def server():
    return Server()


@pytest.fixture(params=[None])
def selected(request):
    """The queues of `-Q`; None without the option."""
    return request.param


@pytest.fixture
def consumer(services, selected):
    return Consumer(services, selected)


@pytest.fixture
def check(consumer, server, monkeypatch):
    monkeypatch.setattr(memory_watch, "servers", lambda _: [Server(), server])
    watch = MemoryWatch(consumer)

    def check(used):
        server.used = used
        watch.check(consumer)

    return check


def test_a_server_without_a_limit_is_never_full():
    assert fullness({"used_memory": 500}) == 0
    assert fullness({"used_memory": 500, "maxmemory": 0}) == 0


def test_operators_are_alerted_once_from_nine_tenths_on(check, services):
    check(899)
    assert not services.alerts.all()
    check(900)
    check(950)
    (alert,) = services.alerts.all()
    assert "900 of 1000 bytes" in alert.message


def test_while_a_server_is_full_changes_stay_in_their_queue(check, consumer):
    check(979)
    assert consumer.queues
    check(980)
    assert not consumer.queues
    check(2000)
    assert not consumer.queues
    check(979)
    assert consumer.queues == {CHANGES_QUEUE}


def test_while_a_server_is_away_consuming_stays_as_it_is(check, consumer):
    check(None)
    assert consumer.queues
    check(980)
    check(None)
    assert not consumer.queues


def test_changes_that_cancel_consumer_took_away_are_consumed_again(check, consumer):
    consumer.queues.clear()
    check(0)
    assert consumer.queues == {CHANGES_QUEUE}


@pytest.mark.parametrize("selected", [{"firehose.main.us-east-1.travel"}], indirect=True)
def test_a_worker_that_was_started_without_changes_consumes_none(check, consumer):
    consumer.queues.clear()
    check(980)
    check(0)
    assert not consumer.queues


def test_operators_are_alerted_once_of_a_server_that_evicts(check, services, server):
    server.policy = "allkeys-lru"
    check(1)
    check(1)
    (alert,) = services.alerts.all()
    assert (alert.type, alert.error_code) == ("Worker Trouble", "EvictionPolicy")
    assert "noeviction" in alert.message

"""A Redis that fills up: who is told, and what is left where it is."""

from types import SimpleNamespace

import pytest
from redis.exceptions import ConnectionError

from worker.consumer import memory_watch
from worker.consumer.memory_watch import MemoryWatch, fullness
from worker.queues import CHANGES_QUEUE

LIMIT = 1000


class Consumer:
    """What the step needs of Celery's consumer."""

    def __init__(self, services):
        self.app = SimpleNamespace(services=services)
        self.task_consumer = self
        self.queues = {CHANGES_QUEUE}

    def consuming_from(self, queue):
        return queue in self.queues

    def cancel_task_queue(self, queue):
        self.queues.remove(queue)

    def add_task_queue(self, queue):
        self.queues.add(queue)


class Server:
    """A Redis by its memory."""

    used = 0

    def info(self, section):
        if self.used is None:
            raise ConnectionError
        return {"used_memory": self.used, "maxmemory": LIMIT}


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def consumer(services):
    return Consumer(services)


@pytest.fixture
def look(consumer, server, monkeypatch):
    monkeypatch.setattr(memory_watch, "servers", lambda _: [Server(), server])
    watch = MemoryWatch(SimpleNamespace())

    def look(used):
        server.used = used
        watch.look(consumer)

    return look


def test_a_server_that_knows_no_limit_is_never_full():
    assert fullness({"used_memory": 500}) == 0
    assert fullness({"used_memory": 500, "maxmemory": 0}) == 0


def test_from_nine_tenths_on_it_is_said_and_once(look, services):
    look(899)
    assert not services.alerts.all()
    look(900)
    look(950)
    (alert,) = services.alerts.all()
    assert "900 of 1000 bytes" in alert.message


def test_while_it_is_full_changes_are_left_in_their_queue(look, consumer):
    look(979)
    assert consumer.queues
    look(980)
    assert not consumer.queues
    look(2000)
    assert not consumer.queues
    look(979)
    assert consumer.queues == {CHANGES_QUEUE}


def test_while_nobody_can_tell_everything_stays_as_it_is(look, consumer):
    look(None)
    assert consumer.queues
    look(980)
    look(None)
    assert not consumer.queues


def test_a_worker_that_takes_no_changes_takes_none_afterwards(look, consumer):
    consumer.queues.clear()
    look(980)
    look(0)
    assert not consumer.queues

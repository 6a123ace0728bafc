"""The pool of processes of a worker."""

import logging
import os
import pickle
import struct

import pytest
from billiard import pool as billiard_pool
from celery.concurrency import prefork
from kombu.asynchronous import Hub

import worker.celery  # noqa: F401
from worker.consumer.start.pool import LAST_RESULT_WAIT_SECONDS, Pool, ResultHandler


def test_the_pool_is_set_up_where_the_application_is_made():
    assert prefork.TaskPool.Pool is Pool
    assert Pool.ResultHandler is ResultHandler
    wait = billiard_pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT
    assert wait * billiard_pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_INTERVAL == LAST_RESULT_WAIT_SECONDS
    assert not logging.getLogger("celery.pool").isEnabledFor(logging.DEBUG)


def framed(result):
    """A result as a process of the pool writes it."""
    text = pickle.dumps(result)
    return struct.pack(">i", len(text)) + text


@pytest.fixture
def pipe():
    """The ends of the pipe of a process's results."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    os.close(reader)
    os.close(writer)


@pytest.fixture
def results(pipe):
    """Reads the results of a process over the pipe, in an event loop of its own."""
    return Results(pipe)


class Results:
    def __init__(self, pipe):
        self.reader, self.writer = pipe
        self.received = []
        self.processes = {self.reader: object()}
        self.hub = Hub()
        self.handler = ResultHandler(
            *[None] * 9, fileno_to_outq=self.processes, on_process_alive=lambda *_: None
        )
        self.handler.on_state_change = self.received.append
        self.register()

    def register(self):
        self.handler.register_with_event_loop(self.hub)

    def write(self, part):
        """What a process writes, of which the worker reads all that is there."""
        os.write(self.writer, part)
        self.handler.handle_event(self.reader)

    def lose_connection(self):
        """What Celery does with its event loop when the connection to the broker is lost."""
        self.hub.reset()
        self.register()


@pytest.mark.parametrize("part", [2, 4, 9])
def test_a_result_is_read_to_its_end_though_the_connection_to_the_broker_is_lost_in_between(results, part):
    first, second = framed(["first"]), framed(["second"])
    results.write(first[:part])

    results.lose_connection()
    results.write(first[part:])
    results.write(second)

    assert results.received == [["first"], ["second"]]


def test_a_process_that_has_the_descriptor_of_a_lost_one_does_not_end_its_result(results):
    results.write(framed(["first"])[:9])

    results.processes[results.reader] = object()
    results.write(framed(["second"]))

    assert results.received == [["second"]]


def test_a_job_is_written_to_its_end_before_another_event_loop_serves_the_pool(monkeypatch):
    def write():
        yield

    writer, written = write(), []
    next(writer)
    pool = Pool.__new__(Pool)
    pool._cache = {1: Job(writer)}
    pool._active_writers = {writer}
    monkeypatch.setattr(Pool.__base__, "register_with_event_loop", lambda self, hub: written.append(hub))
    monkeypatch.setattr(pool, "_flush_writer", lambda *flushed: written.append(flushed))

    pool.register_with_event_loop("hub")

    assert written == [("process", writer), "hub"]


class Job:
    _write_to = "process"

    def __init__(self, writer):
        self._writer = lambda: writer

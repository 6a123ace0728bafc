"""RabbitMQ alone: delayed messages, and messages when it fails."""

import os
import signal
import socket
import time
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import psutil
import pytest
from kombu import Connection
from load import Load
from stack import Stack
from waiting import eventually

from devstack import processes
from devstack.firehose import FakeFirehose, refuse_once
from devstack.ports import free_port
from worker.broker.rabbitmq.delay_queues import copy_message
from worker.broker.rabbitmq.transport import Transport
from worker.queues import delay_queue

on_rabbitmq = pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)

CUSTOMERS = [f"secretive-{number}" for number in range(12)]
BACKOFF = {"AUDIENCE_RETRY_BACKOFF": "8", "AUDIENCE_RETRY_BACKOFF_MAX": "8"}
SOON = {"AUDIENCE_RETRY_BACKOFF": "2", "AUDIENCE_RETRY_BACKOFF_MAX": "2", "AUDIENCE_RETRY_MAX": "100"}
COUNTDOWN = 3
WAIT_SECONDS = 120
"""Seconds without an arrival after which what is missing counts as lost."""
RECORDS = 1_000
PER_MESSAGE = 5
REFUSED = b'7"'
"""How a customer ends whose record is refused once: at most one of five, so that the stream stays open."""
CONCURRENCY = 2
PLAIN_QUEUE = "somebodys-calls"
CUTS = 2


class Broker:
    """A private RabbitMQ that is stopped and started again, and keeps its directory and its port."""

    def __init__(self, directory):
        self._directory, self._port = directory, free_port()
        self.start()

    def start(self):
        self._running = ExitStack()
        server = processes.rabbitmq(self._directory, "idle", port=self._port)
        _, self.url = self._running.enter_context(server)

    def stop(self):
        self._running.close()


@pytest.fixture
def restartable(tmp_path, redis_url, rabbitmq_installed):
    """A RabbitMQ of the story's own, and a stack without a worker on it."""
    broker = Broker(tmp_path)
    try:
        with FakeFirehose() as firehose:
            stack = Stack(tmp_path, redis_url, firehose, databases=(2, 3), broker_url=f"{broker.url}/idle")
            stack.services.redis.flushdb()
            stack.configure("main")
            yield broker, stack
    finally:
        broker.stop()


@on_rabbitmq
def test_a_retry_waits_in_the_broker_and_outlives_its_worker(idle_stack):
    audience = idle_stack.audience()
    refused = [customer for customer in CUSTOMERS if customer.endswith(("1", "4", "7"))]
    idle_stack.firehose.faults += [refuse_once(customer.encode() + b'"') for customer in refused]
    with idle_stack.worker(env=BACKOFF) as worker:
        for number in range(0, len(CUSTOMERS), 3):
            idle_stack.send(*audience.added(*CUSTOMERS[number : number + 3]))
        eventually(lambda: len(audience.customers()) >= len(CUSTOMERS) - len(refused))
        eventually(lambda: idle_stack.services.counters.of(audience.stream).retrying)
        assert not any(idle_stack.inspect("scheduled").values())
        os.kill(worker.pid, signal.SIGTERM)
        eventually(lambda: not worker.is_running)
    with idle_stack.worker(env=BACKOFF):
        eventually(lambda: idle_stack.services.counters.of(audience.stream).delivered == len(CUSTOMERS))
    assert sorted(audience.customers()) == sorted(CUSTOMERS)


@on_rabbitmq
def test_a_worker_without_a_pool_delivers_and_retries_and_one_of_threads_does_not_start(idle_stack):
    audience = idle_stack.audience()
    idle_stack.firehose.faults.append(refuse_once(REFUSED))
    with idle_stack.worker("--pool", "solo", env=SOON) as worker:
        for customer in CUSTOMERS:
            idle_stack.send(*audience.added(customer))
        eventually(lambda: sorted(audience.customers()) == sorted(CUSTOMERS))
        assert worker.stop() == 0
    with pytest.raises(processes.StartError, match="-P threads: "), idle_stack.worker("--pool", "threads"):
        pass


@on_rabbitmq
def test_a_worker_starts_while_rabbitmq_keeps_the_mailbox_of_its_lost_connection(idle_stack):
    with idle_stack.caller.connection() as lost, lost.channel() as channel:
        channel.queue_declare(f"worker0@{socket.gethostname()}.celery.pidbox", exclusive=True)
        with idle_stack.worker():
            assert idle_stack.inspect("ping")


@on_rabbitmq
def test_a_queue_that_rabbitmq_keeps_for_a_lost_connection_is_a_reason_to_connect_again(idle_stack):
    url = idle_stack.broker_url
    with idle_stack.caller.connection() as lost, patient(url) as connection:
        lost.channel().queue_declare(PLAIN_QUEUE, exclusive=True)
        with pytest.raises(connection.connection_errors, match="another connection's"):
            connection.channel().queue_declare(PLAIN_QUEUE, exclusive=True)


@on_rabbitmq
def test_a_delayed_call_is_run_at_its_time(idle_stack):
    audience = idle_stack.audience()
    with idle_stack.worker():
        sent_at = time.time()
        idle_stack.send(*audience.added("secretive-1"), countdown=COUNTDOWN)
        eventually(lambda: held(idle_stack, delay_queue(2)) == 1)
        eventually(audience.received)
        assert time.time() - sent_at > COUNTDOWN
    assert audience.customers() == ["secretive-1"]


def test_a_delayed_message_returns_unchanged_whatever_happens_to_the_delay_queue(idle_rabbitmq_url):
    with patient(idle_rabbitmq_url) as connection, connection.channel() as channel:
        channel.queue_declare(PLAIN_QUEUE, durable=True, auto_delete=False)
        properties = {"correlation_id": "an-id", "priority": 3, "reply_to": "somebody", "delivery_mode": 2}
        connection.Producer(channel).publish(
            ["secretive"], PLAIN_QUEUE, headers={"x-own": 1}, compression="zstd", **properties
        )
        message = taken(channel)
        original = content(message)
        for _ in range(2):
            assert message.channel.delay(message, time.time() + 1)
            message = taken(channel)
            assert content(message) == original
            assert message.properties.items() >= properties.items()
            channel.queue_delete(delay_queue(1))
        message.ack()


@on_rabbitmq
def test_a_worker_that_is_stopped_while_a_process_receives_a_run_ends_and_loses_nothing(idle_stack):
    """The run is larger than a pipe, and neither of them goes on before the worker was told to stop."""
    load = Load(idle_stack.audience(), RECORDS, per_message=1)
    with idle_stack.worker("--concurrency", "1", env=SOON) as worker:
        (process,) = psutil.Process(worker.pid).children()
        # The worker knows the size of its messages, and is sent many.
        load.send(RECORDS // 10)
        load.arrive()
        eventually(lambda: not any(idle_stack.inspect("active").values()))
        process.suspend()
        os.kill(worker.pid, signal.SIGSTOP)
        load.send()
        os.kill(worker.pid, signal.SIGCONT)
        eventually(lambda: any(idle_stack.inspect("reserved").values()))
        worker.terminate()
        eventually(lambda: "Warm shutdown" in worker.output())
        process.resume()
        eventually(lambda: not worker.is_running)
    with idle_stack.worker("--concurrency", "1", env=SOON):
        load.arrive(timeout=WAIT_SECONDS)
    assert (load.sent, load.lost, load.repeated) == (RECORDS, 0, 0)


def test_a_restart_of_rabbitmq_loses_nothing(restartable):
    broker, stack = restartable
    with loaded(stack) as load:
        with load.holding_put(1) as wait_for_put:
            wait_for_put()
            broker.stop()
        with load.sending():
            eventually(lambda: load.refusals)
            broker.start()
    tell(load, "a restart", faults=1)


@on_rabbitmq
def test_closed_connections_to_rabbitmq_lose_nothing(idle_stack, rabbitmq):
    host = urlsplit(idle_stack.broker_url).path[1:]
    with loaded(idle_stack) as load:
        for _ in range(CUTS):
            share = (load.records - load.sent) // CUTS
            with load.holding_put(1) as wait_for_put, load.sending(share):
                wait_for_put()
                processes.rabbitmqctl(
                    rabbitmq.environment, "close_all_connections", "--vhost", host, "a test"
                )
        load.send()
    tell(load, f"connections cut {CUTS} times", faults=CUTS)


@contextmanager
def loaded(stack):
    """A worker, and half a load on its way into a stream that refuses some of it at first.

    Ends when all of it has arrived.
    """
    stack.caller.conf.broker_transport_options = {"confirm_publish": True}
    stack.firehose.faults.append(refuse_once(REFUSED))
    load = Load(stack.audience(), RECORDS, per_message=PER_MESSAGE)
    options = ("--concurrency", str(CONCURRENCY), "--without-mingle")
    with stack.worker(*options, env=SOON) as worker:
        load.send(RECORDS // 2)
        yield load
        load.arrive(timeout=WAIT_SECONDS)
        # What a batch delivers that comes again for want of its retry is counted the last time only.
        eventually(lambda: stack.services.counters.of(load.audience.stream).delivered >= RECORDS)
        assert load.status().counts.delivered <= RECORDS + load.repeated
        assert load.status().counts.enqueued == RECORDS
        assert worker.is_running


def tell(load, story, faults):
    """Nothing is lost. Unacknowledged messages come again, and their idempotency records are completed.

    Only a batch that was partly refused has none, where its retry could not be sent. It is of many messages.
    """
    print(f"{story}: {load.sent} sent, {load.lost} lost, {load.repeated} repeated, {load.refusals} refusals")
    assert (load.sent, load.lost) == (RECORDS, 0)
    assert load.repeated <= faults * CONCURRENCY * load.largest_put()


def patient(url):
    """A connection over the worker's own transport."""
    return Connection(url, transport=f"{Transport.__module__}:{Transport.__name__}")


def content(message):
    """The message as its sender sent it."""
    copy = copy_message(message)
    return copy.body, copy.properties


def taken(channel):
    """The next message of the plain queue."""
    return channel.message_to_python(eventually(lambda: channel.basic_get(PLAIN_QUEUE)))


def held(stack, queue):
    """How many messages are in a queue and with nobody."""
    with stack.caller.connection() as connection, connection.channel() as channel:
        try:
            return channel.queue_declare(queue, passive=True).message_count
        except connection.channel_errors:
            return 0

"""RabbitMQ is half-open or killed: a worker comes back by itself, with classic and with quorum queues."""

import re
import time
from contextlib import ExitStack
from itertools import cycle, islice
from random import Random

import psutil
import pytest
from chaos import CONCURRENCY, HASTE
from full_size import FULL
from kombu import Connection
from link import Link
from load import Load
from stack import Stack
from waiting import eventually

from devstack import processes
from devstack.firehose import FakeFirehose
from devstack.ports import free_port

pytestmark = pytest.mark.full

RECORDS = 20_000 if FULL else 2_000
PER_MESSAGE = 20
KILLS = 6
STOPS = 6
LOST = "Connection to broker lost"
LOST_WITHIN_SECONDS = 90
BACK_WITHIN_SECONDS = 120
STOPS_WITHIN_SECONDS = 120
"""Measured: 25, 7 and 24. A busy machine takes longer; a worker that hangs would take for ever."""
REQUEUED = "the message is requeued"
FEW = 2
DELIVERY_LIMIT = 15
"""The lowest that does no harm. RabbitMQ 4 has 20 by default, and 3.10 none."""
REFUSES_ALL = {"x-queue-type": "classic", "x-max-length": 0, "x-overflow": "reject-publish"}
PLAIN = "kombu.transport.pyamqp:Transport"
"""Somebody else's, which declares a queue as it is told."""
HOST = "chaos"
ENVIRONMENT = HASTE | {"AUDIENCE_VISIBILITY_TIMEOUT": "300"}
"""Idempotency records are kept for four times that, and messages come back after half a minute here."""


class Server:
    """A private RabbitMQ that is killed and started again, and keeps its directory and its port."""

    def __init__(self, directory, default_type):
        self._directory, self._default_type, self._port = directory, default_type, free_port()
        self.start()

    def start(self):
        self._running = ExitStack()
        hosts, quorum_hosts = ((), (HOST,)) if self._default_type == "quorum" else ((HOST,), ())
        running = processes.rabbitmq(self._directory, *hosts, quorum_hosts=quorum_hosts, port=self._port)
        self.process, self.url = self._running.enter_context(running)

    def stop(self):
        self._running.close()

    def kill(self):
        """End it as a power failure does, with Erlang's machine."""
        self.process.kill()
        self.stop()


@pytest.fixture(params=["classic", "quorum"])
def server(request, tmp_path):
    try:
        processes.rabbitmq_server()
    except processes.StartError as error:
        pytest.skip(str(error))
    server = Server(tmp_path, request.param)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def stack(server, tmp_path):
    """A stack without a worker, with its state on a Redis."""
    with processes.redis(tmp_path) as (_, redis_url), FakeFirehose() as firehose:
        stack = Stack(tmp_path, redis_url, firehose, databases=(0, 1), broker_url=f"{server.url}/{HOST}")
        stack.caller.conf.broker_transport_options = {"confirm_publish": True}
        stack.configure("main")
        yield stack


@pytest.fixture
def link(server):
    with Link(server.url) as link:
        yield link


@pytest.fixture
def load(stack):
    return Load(stack.audience(), RECORDS, per_message=PER_MESSAGE)


def through(link):
    """The environment of a worker that reaches the broker by a link."""
    return ENVIRONMENT | {"CELERY_BROKER_URL": f"{link.url}/{HOST}"}


def seconds_until_more_arrive(load):
    """Seconds until records arrive that had not."""
    start, arrived = time.monotonic(), load.arrived()
    eventually(lambda: load.arrived() > arrived, timeout=BACK_WITHIN_SECONDS)
    return round(time.monotonic() - start)


def test_a_half_open_connection_to_rabbitmq_is_replaced_and_nothing_is_lost(stack, link, load, tell):
    with stack.worker("--concurrency", str(CONCURRENCY), env=through(link)) as worker:
        load.send(RECORDS // 2)
        eventually(lambda: load.arrived() > RECORDS // 4)
        link.drop()
        load.send()
        eventually(lambda: LOST in worker.output(), timeout=LOST_WITHIN_SECONDS)
        link.heal()
        seconds = seconds_until_more_arrive(load)
        load.arrive()
        assert worker.is_running
    tell(load, f"packets dropped; flows again after {seconds} s")


def test_a_worker_stops_on_sigterm_while_rabbitmq_is_half_open(stack, link, load):
    with stack.worker("--concurrency", str(CONCURRENCY), env=through(link)) as worker:
        load.send()
        eventually(lambda: load.arrived() > RECORDS // 4)
        link.drop()
        worker.terminate()
        eventually(lambda: not worker.is_running, timeout=STOPS_WITHIN_SECONDS)


def test_a_killed_rabbitmq_loses_nothing(stack, server, load, tell):
    with stack.worker("--concurrency", str(CONCURRENCY), "--without-mingle", env=ENVIRONMENT) as worker:
        load.send(RECORDS // 2)
        eventually(lambda: load.arrived() > RECORDS // 4)
        server.kill()
        with load.sending():
            eventually(lambda: load.refusals)
            server.start()
            seconds = seconds_until_more_arrive(load)
        load.arrive()
        assert worker.is_running
        assert not re.search("Unrecoverable", worker.output())
    tell(load, f"RabbitMQ killed; flows again after {seconds} s")


@pytest.mark.parametrize("server", ["quorum"], indirect=True)
def test_messages_that_come_back_beyond_a_delivery_limit_are_not_dropped(stack, server, tell):
    """They wait for a stream whose queue refuses their batches."""
    load = Load(stack.audience(), FEW, per_message=1)
    policy = ("set_policy", "-p", HOST, "limit", ".*", f'{{"delivery-limit":{DELIVERY_LIMIT}}}')
    processes.rabbitmqctl(server.process.environment, *policy)
    with Connection(stack.broker_url, transport=PLAIN) as connection:
        channel, queue = connection.default_channel, load.audience.stream.queue
        channel.queue_declare(queue, durable=True, auto_delete=False, arguments=REFUSES_ALL)
        with stack.worker("--concurrency", str(CONCURRENCY), "--without-mingle", env=ENVIRONMENT) as worker:
            load.send()
            returns = 2 * FEW * DELIVERY_LIMIT
            eventually(lambda: worker.output().count(REQUEUED) >= returns, timeout=BACK_WITHIN_SECONDS)
            channel.queue_delete(queue)
            load.arrive()
    tell(load, f"messages come back {returns} times")
    assert load.status().dead == 0


def test_workers_that_are_killed_over_runs_lose_nothing(stack, tell):
    load = Load(stack.audience(), RECORDS, per_message=1)
    chance = Random(1)
    share = RECORDS // (KILLS + 1)
    for is_whole in islice(cycle([True, False]), KILLS):
        with stack.worker("--concurrency", str(CONCURRENCY), "--without-mingle", env=HASTE) as worker:
            with load.holding_put(chance.randint(1, share)) as wait_for_put:
                load.send(share)
                wait_for_put()
                for process in psutil.Process(worker.pid).children():
                    process.kill()
            if is_whole:
                worker.kill()
            else:
                load.arrive()
    with stack.worker("--concurrency", str(CONCURRENCY), "--without-mingle", env=HASTE):
        load.send()
        load.arrive()
        eventually(lambda: load.status().counts.enqueued >= RECORDS)
    tell(load, f"{KILLS} x SIGKILL", allowed=KILLS * CONCURRENCY * load.largest_put())
    assert load.status().dead == 0


def test_workers_that_are_stopped_over_runs_lose_and_repeat_nothing(stack, tell):
    load = Load(stack.audience(), RECORDS, per_message=1)
    options = ("--concurrency", str(CONCURRENCY), "--without-mingle")
    with load.sending():
        for stop in range(STOPS):
            with stack.worker(*options, env=ENVIRONMENT) as worker:
                eventually(lambda stop=stop: load.arrived() > stop * RECORDS // STOPS)
                assert worker.stop() == 0
    with stack.worker(*options, env=ENVIRONMENT):
        load.arrive()
    tell(load, f"{STOPS} x SIGTERM")
    assert load.largest_put() > 1

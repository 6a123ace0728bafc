"""The stack that all end-to-end tests share. Each story has audiences and streams of its own."""

import threading
from itertools import count

import pytest
from leaks import leaks
from stack import Stack

from devstack import processes
from devstack.firehose import Answer, FakeFirehose

READY_AUDIENCES = 70
"""Connected before the worker starts, so that a story does not wait for its queue."""
DOCUMENTED_AUDIENCE = 123123
IDLE_NAMES = count(1000)
"""The stream of the audiences in `idle_stack`."""


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("stack")


@pytest.fixture(scope="session")
def redis_url(directory):
    with processes.redis(directory) as (_, url):
        yield url


@pytest.fixture(scope="session", params=["redis", "rabbitmq"])
def broker(request):
    """Run every test over both brokers, unless it is marked for one of them."""
    return request.param


@pytest.fixture(scope="session")
def broker_url(broker, request):
    """The URL of a RabbitMQ without a virtual host; None where the broker is the Redis."""
    return request.getfixturevalue("rabbitmq_url") if broker == "rabbitmq" else None


@pytest.fixture(scope="session")
def running(directory, redis_url, broker, broker_url):
    """The stack with its worker, and its audiences that no story has taken yet."""
    own_directory = directory / broker
    own_directory.mkdir(exist_ok=True)
    with FakeFirehose() as firehose:
        databases = (0, 1) if broker == "redis" else (4, 5)
        url = broker_url and f"{broker_url}/running"
        stack = Stack(own_directory, redis_url, firehose, databases, url)
        stack.configure("main")
        ready = [stack.audience(number=DOCUMENTED_AUDIENCE)]
        ready += [stack.audience() for _ in range(READY_AUDIENCES)]
        with stack.worker("--concurrency", "2") as worker:
            with stack.watching():
                yield stack, ready
            assert worker.stop() == 0


@pytest.fixture
def stack(running):
    """The running stack, with a Firehose that has no faults."""
    stack, _ = running
    yield stack
    stack.firehose.faults.clear()


@pytest.fixture
def audience(running, stack):
    """An audience with a stream of its own that the worker consumes."""
    return running[1].pop()


@pytest.fixture
def another_audience(running, stack):
    """One more."""
    return running[1].pop()


@pytest.fixture
def documented_audience(running, stack):
    """The audience of the documented examples."""
    return running[1][0]


@pytest.fixture
def idle_stack(directory, redis_url, broker, request):
    """A stack without a worker, on databases of its own: the story starts its workers itself."""
    own_directory = directory / broker / request.node.name
    own_directory.mkdir(parents=True)
    with FakeFirehose() as firehose:
        url = request.getfixturevalue("idle_rabbitmq_url") if broker == "rabbitmq" else None
        stack = Stack(own_directory, redis_url, firehose, databases=(2, 3), broker_url=url)
        if not url:
            stack.broker_client().flushdb()
        # What a story leaves in a RabbitMQ must not come to the next one's streams.
        stack.names = IDLE_NAMES
        stack.services.redis.flushdb()
        stack.configure("main")
        yield stack
    for log in stack.logs:
        assert not leaks(log.read_text(errors="replace")), log.name


@pytest.fixture
def hanging():
    """An answer of Firehose that comes only when it is let go. The records are taken at once."""
    go = threading.Event()
    yield Answer(wait=go)
    go.set()

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
FRESH_HOSTS = 10
"""How many virtual hosts of each type stories can take: `rabbitmqctl` would take a second to make one."""
IDLE_NAMES = count(1000)
"""The stream of the audiences in `idle_stack`."""


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("stack")


@pytest.fixture(scope="session")
def redis_url(directory):
    with processes.redis(directory) as (_, url):
        yield url


@pytest.fixture(scope="session")
def rabbitmq_installed():
    """Skips where the machine has no RabbitMQ. CI installs it."""
    try:
        processes.rabbitmq_server()
    except processes.StartError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def rabbitmq(rabbitmq_installed, tmp_path_factory):
    """The process and the URL of a RabbitMQ that tests share."""
    classic_hosts, quorum_hosts = fresh_names("classic"), fresh_names("quorum")
    directory, hosts = tmp_path_factory.mktemp("rabbitmq"), ("running", "idle", *classic_hosts)
    with processes.rabbitmq(directory, *hosts, quorum_hosts=quorum_hosts) as running:
        yield running


def fresh_names(default_type):
    """The names of the virtual hosts whose queues are of a type by default."""
    return [f"{default_type}-{number}" for number in range(FRESH_HOSTS)]


@pytest.fixture(scope="session")
def fresh_hosts():
    """The names of virtual hosts that no story has taken yet, by the type of their queues."""
    return {default_type: iter(fresh_names(default_type)) for default_type in ("classic", "quorum")}


@pytest.fixture(scope="session")
def rabbitmq_server(rabbitmq):
    """The process of the RabbitMQ."""
    return rabbitmq[0]


@pytest.fixture(scope="session")
def rabbitmq_url(rabbitmq):
    """Its URL without a virtual host."""
    return rabbitmq[1]


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
def idle_stack(directory, redis_url, broker, broker_url, request):
    """A stack without a worker, on databases of its own: the story starts its workers itself."""
    own_directory = directory / broker / request.node.name
    own_directory.mkdir(parents=True)
    with FakeFirehose() as firehose:
        url = broker_url and f"{broker_url}/idle"
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

"""Fixtures for all tests, and how the tests are spread over processes.

No setting of the developer's own reaches a test or a process that a test starts.
"""

import gc
import os
from functools import cache
from pathlib import Path

for name in list(os.environ):
    if name.startswith(("AUDIENCE_", "AWS_", "CELERY_")):
        del os.environ[name]
os.environ |= {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}

import fakeredis  # noqa: E402
import pytest  # noqa: E402
from clock import Clock  # noqa: E402
from cluster import RedisCluster  # noqa: E402
from cryptography.fernet import Fernet  # noqa: E402
from full_size import FULL  # noqa: E402
from hypothesis import settings  # noqa: E402
from redis import Redis  # noqa: E402
from shared_server import claimed, shared  # noqa: E402

from devstack import processes  # noqa: E402
from schemas.identities import Catalogue  # noqa: E402
from worker.config import read_settings  # noqa: E402
from worker.consumer.start.garbage_collection import freeze_loaded_objects  # noqa: E402
from worker.queues import Stream  # noqa: E402
from worker.services import Services  # noqa: E402
from worker.store.cluster import KEY_PREFIX  # noqa: E402
from worker.store.connections import connect_redis  # noqa: E402

# How long an example takes tells of the machine, not of the code. In full, the examples are others each time.
settings.register_profile("of this project", deadline=None, derandomize=not FULL)
settings.load_profile("of this project")

TESTS = Path(__file__).parent
PROCESS = os.environ.get("PYTEST_XDIST_WORKER")
"""The name of this process of the tests: `gw0` is the first; None where it is the only one."""
PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
PROCESSES_PER_CORE = 3 if FULL else 4
"""Most of a test's time is spent waiting for the servers that it has started; less of it in full size."""
MAX_PROCESSES = 8
SHARED_SERVERS = {
    "running": "the running stack",
    "place": "the dashboard",
    "page": "the browser",
    "redis_cluster": "Redis Cluster",
}
"""Shared fixtures whose servers are slow to start, and the groups of the tests that use them."""
RABBITMQ = "rabbitmq"
OWN_HOSTS = ("idle", "tasks")
"""Virtual hosts of RabbitMQ that each process of the tests has."""
FRESH_HOSTS = 10
"""How many virtual hosts of each type stories can take: `rabbitmqctl` would take a second to make one."""
CLUSTER = "cluster"
STATE_TESTS = (
    "worker/state",
    "worker/failures",
    "worker/flow",
    "worker/store/test_atomic.py",
    "tasks/test_deliver.py",
    "tasks/test_runs.py",
)
"""Tests of the state, which run on a Redis Cluster, too."""
SERVERS_OF_THEIR_OWN = {"chaos", "devstack", "end_to_end"}
"""Directories of `tests/` in which each test starts what it needs."""
VARIED_IN_SIZE = {"chaos", "fuzz"}
"""Directories whose tests are larger in `make chaos`."""


def pytest_xdist_auto_num_workers():
    """How many processes `make test` runs the tests in."""
    return min(PROCESSES_PER_CORE * (os.cpu_count() or 1), MAX_PROCESSES)


def pytest_generate_tests(metafunc):
    """Run a test of the state on a Redis in memory and on a cluster, unless it needs a server of its own."""
    fixtures = set(metafunc.fixturenames)
    if (
        is_of_state(metafunc.definition.path)
        and "redis" in fixtures
        and not fixtures & {"redis_server", "real_redis"}
    ):
        metafunc.parametrize("redis", ["memory", CLUSTER], indirect=True)


@cache
def is_of_state(path):
    """Whether the tests of a file are of the state."""
    return any(path.is_relative_to(TESTS / part) for part in STATE_TESTS)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Spare Python's collector what stays to the end, as workers do: a third of small tests' CPU."""
    gc.disable()
    try:
        return (yield)
    finally:
        freeze_loaded_objects()
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Choose the tests, mark which must run in one process, and put the longest groups first."""
    config.hook.pytest_deselected(items=[item for item in items if not is_chosen(item)])
    items[:] = filter(is_chosen, items)
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of(item)))
    items.sort(key=place_in_order)


def is_chosen(item):
    """`make test` leaves out what is marked `full`; `make chaos` runs that, all faults and all fuzz tests."""
    is_full = item.get_closest_marker("full") is not None
    return is_full or directory_of(item.path) in VARIED_IN_SIZE if FULL else not is_full


def group_of(item):
    """The tests of a group run in one process, one after another."""
    broker = broker_of(item)
    if "running" in item.fixturenames:
        return f"{SHARED_SERVERS['running']} over {broker}"
    for fixture, group in SHARED_SERVERS.items():
        if fixture in item.fixturenames:
            return group
    if hasattr(item, "callspec") and item.callspec.params.get("redis") == CLUSTER:
        return SHARED_SERVERS["redis_cluster"]
    if has_servers_of_its_own(item):
        return item.nodeid
    return f"{item.path} over {broker}" if broker == RABBITMQ else str(item.path)


def broker_of(item):
    """The broker that a test is parametrized with; None where it is not."""
    return item.callspec.params.get("broker") if hasattr(item, "callspec") else None


def place_in_order(item):
    """Groups on shared servers first, as they are the longest; then what starts servers of its own.

    On a shared stack the search for leaks is last, when there is most to search.
    """
    if "running" in item.fixturenames:
        return (0, broker_of(item), item.path.name == "test_secrecy.py")
    if SHARED_SERVERS.keys() & set(item.fixturenames) or broker_of(item) == RABBITMQ:
        return (1, group_of(item), False)
    return (2 if has_servers_of_its_own(item) else 3, "", False)


def has_servers_of_its_own(item):
    """Whether it is among the tests that start what they need."""
    return directory_of(item.path) in SERVERS_OF_THEIR_OWN


@cache
def directory_of(path):
    """A file's directory in `tests/`."""
    return path.relative_to(TESTS).parts[0]


@pytest.fixture(scope="session")
def secret_key():
    """A key for stored secrets."""
    return Fernet.generate_key().decode()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def redis_server():
    """A Redis that goes away with `redis_server.connected = False`."""
    return fakeredis.FakeServer()


@pytest.fixture
def redis(request):
    """A Redis in memory; for tests of `STATE_TESTS`, a Redis Cluster, too."""
    if getattr(request, "param", None) == CLUSTER:
        return request.getfixturevalue("cluster_redis")
    server = request.getfixturevalue("redis_server")
    return fakeredis.FakeRedis(server=server, decode_responses=True)


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory):
    """Three masters. One test at a time."""
    cluster = RedisCluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.stop()


@pytest.fixture
def cluster_redis(redis_cluster):
    """A client of the state on an empty cluster. The names of keys are returned as on any server."""
    redis_cluster.flush()
    with connect_redis(redis_cluster.url, decode_responses=True) as client:
        client.set_response_callback("KEYS", without_prefix)
        yield client


def without_prefix(keys, **_options):
    """The names of keys as they are elsewhere than on a cluster."""
    return [key.removeprefix(KEY_PREFIX) for key in keys]


@pytest.fixture(scope="session")
def real_redis_url(tmp_path_factory):
    """A real server, for what fakeredis does not know. One test at a time."""
    with processes.redis(tmp_path_factory.mktemp("redis")) as (_, url):
        yield url


@pytest.fixture(scope="session")
def rabbitmq_installed():
    """Skips where the machine has no RabbitMQ. CI installs it."""
    try:
        processes.rabbitmq_server()
    except processes.StartError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def rabbitmq_directory(tmp_path_factory):
    """A directory that all processes of the tests know."""
    directory = tmp_path_factory.getbasetemp()
    return (directory.parent if PROCESS else directory) / "rabbitmq"


@pytest.fixture(scope="session")
def rabbitmq(rabbitmq_installed, rabbitmq_directory):
    """The RabbitMQ that all processes of the tests share: it takes five seconds of a core to start."""
    hosts = ["running", *fresh_names("classic")]
    hosts += [own_host(name, f"gw{number}") for name in OWN_HOSTS for number in range(PROCESSES)]

    def start(directory):
        return processes.rabbitmq(directory, *hosts, quorum_hosts=fresh_names("quorum"))

    with shared(rabbitmq_directory, start) as server:
        yield server


def own_host(name, process=PROCESS or "gw0"):
    """The name of a virtual host that only this process uses."""
    return f"{name}-{process}"


def fresh_names(default_type):
    """The names of the virtual hosts whose queues are of a type by default."""
    return [f"{default_type}-{number}" for number in range(FRESH_HOSTS)]


@pytest.fixture(scope="session")
def fresh_hosts(rabbitmq_directory):
    """The names of virtual hosts that no story has taken yet, by the type of their queues."""
    taken = rabbitmq_directory / "taken"
    return {
        default_type: (name for name in fresh_names(default_type) if claimed(taken, name))
        for default_type in ("classic", "quorum")
    }


@pytest.fixture(scope="session")
def rabbitmq_url(rabbitmq):
    """Its URL without a virtual host."""
    return rabbitmq.url


@pytest.fixture(scope="session")
def idle_rabbitmq_url(rabbitmq_url):
    """The URL of a virtual host in which no worker runs but a story's own."""
    return f"{rabbitmq_url}/{own_host('idle')}"


@pytest.fixture(scope="session")
def tasks_rabbitmq_url(rabbitmq_url):
    """The URL of a virtual host for tasks that run in the test's own process."""
    return f"{rabbitmq_url}/{own_host('tasks')}"


@pytest.fixture
def real_redis(real_redis_url):
    """An empty one, with room."""
    client = Redis.from_url(real_redis_url, decode_responses=True)
    client.config_set("maxmemory", 0)
    client.flushall()
    return client


@pytest.fixture
def services(redis, secret_key, clock):
    """The forwarder's memory, over a Redis of its own. Time stands still."""
    environment = read_settings({"AUDIENCE_SECRET_KEY": secret_key})
    return Services(redis, environment, clock=clock, monotonic=clock, sleep=clock.sleep)


@pytest.fixture
def catalogue():
    """The identities under their standard names."""
    return Catalogue()


@pytest.fixture
def stream():
    return Stream("main", "us-east-1", "travel")

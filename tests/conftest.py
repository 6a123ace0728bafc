"""What all tests share. Nothing of the developer's own settings reaches a test, or a process of one."""

import os

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
from cryptography.fernet import Fernet  # noqa: E402
from redis import Redis  # noqa: E402

from devstack import processes  # noqa: E402
from schemas.identities import Catalogue  # noqa: E402
from worker.config import read_settings  # noqa: E402
from worker.queues import Stream  # noqa: E402
from worker.services import Services  # noqa: E402


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
def redis(redis_server):
    return fakeredis.FakeRedis(server=redis_server, decode_responses=True)


@pytest.fixture(scope="session")
def real_redis_url(tmp_path_factory):
    """A real server, for what fakeredis does not know. One test at a time."""
    with processes.redis(tmp_path_factory.mktemp("redis")) as (_, url):
        yield url


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

"""A real Redis as the broker, and connections of our transport to it."""

import pytest
from kombu import Connection
from kombu.asynchronous import Hub, set_event_loop

from worker.broker.redis.transport import Transport
from worker.broker.serialization import register_orjson


@pytest.fixture
def server(real_redis):
    return real_redis


@pytest.fixture
def connection(real_redis_url, server):
    register_orjson()
    with Connection(real_redis_url, transport=Transport) as connection:
        yield connection


@pytest.fixture
def loop():
    loop = Hub()
    set_event_loop(loop)
    yield loop
    loop.close()

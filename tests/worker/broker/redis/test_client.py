"""A server that cannot serve just now raises a connection error, over which a worker reconnects."""

import threading

import pytest
from redis import Redis
from redis.exceptions import BusyLoadingError, OutOfMemoryError, ResponseError
from waiting import eventually

from devstack import processes
from worker.broker.redis.client import Client, ServerUnavailable, unavailable_code
from worker.broker.redis.transport import Transport

FOREVER = "while true do end"


@pytest.fixture
def client(real_redis, real_redis_url):
    with Client.from_url(real_redis_url) as client:
        yield client


@pytest.fixture
def replica(real_redis):
    """The server as a replica of one that is not there."""
    real_redis.replicaof("127.0.0.1", processes.free_port())
    yield
    real_redis.replicaof("NO", "ONE")


@pytest.fixture
def without_replicas(real_redis):
    """The server demands a replica and has none."""
    real_redis.config_set("min-replicas-to-write", 1)
    yield
    real_redis.config_set("min-replicas-to-write", 0)


@pytest.fixture
def busy(real_redis, client):
    """The server runs a script without an end."""

    def run():
        with pytest.raises(ResponseError, match="kill"):
            real_redis.eval(FOREVER, 0)

    def is_busy():
        try:
            client.ping()
        except ServerUnavailable:
            return True
        return False

    real_redis.config_set("lua-time-limit", 10)
    script = threading.Thread(target=run)
    script.start()
    eventually(is_busy)
    yield
    client.script_kill()
    script.join()


@pytest.mark.parametrize("fault", ["replica", "without_replicas", "busy"])
def test_a_server_that_accepts_no_write_is_unavailable_and_not_broken(client, fault, request):
    request.getfixturevalue(fault)
    with pytest.raises(ServerUnavailable) as caught:
        client.lpush("queue", "message")
    assert isinstance(caught.value, Transport.connection_errors)
    with pytest.raises(ServerUnavailable):
        client.pipeline().lpush("queue", "message").execute()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("MISCONF Redis is configured to save RDB snapshots", "MISCONF"),
        ("BUSY Redis is busy running a script", "BUSY"),
        ("Error running script (call to f_0): @user_script:1: -READONLY You can't write", "READONLY"),
        ("BUSYGROUP Consumer Group name already exists", ""),
        ("WRONGTYPE Operation against a key", ""),
    ],
)
def test_codes_of_an_unavailable_server_are_distinguished_from_other_errors(text, code):
    assert unavailable_code(ResponseError(text)) == code


def test_a_full_server_is_not_unavailable(client, real_redis):
    real_redis.config_set("maxmemory", 1)
    with pytest.raises(OutOfMemoryError):
        client.lpush("queue", "message")


def test_a_server_that_reads_its_data_is_unavailable(monkeypatch):
    def parse_response(*_, **__):
        raise BusyLoadingError("Redis is loading the dataset in memory", status_code="LOADING")

    monkeypatch.setattr(Redis, "parse_response", parse_response)
    with pytest.raises(ServerUnavailable) as raised:
        Client().parse_response(None, "PING")
    assert raised.value.code == "LOADING"

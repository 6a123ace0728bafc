"""Messages and state that version 0f26344 wrote into Redis are read and delivered by this version.

`fixtures/redis-of-0f26344.json` holds every key of broker and state that a worker of that version left when
it was killed: deliveries and retries that were reserved or waiting, messages that a caller delayed, one in
Celery's older protocol, a malformed one, a repeated one, paused streams and one whose breaker was OPEN,
idempotency records and a lease, dead letters, alerts and counters.
"""

import json
from pathlib import Path

import pytest
from redis import Redis
from stack import Stack
from waiting import eventually

from devstack.firehose import FakeFirehose
from worker.queues import CHANGES_QUEUE, Stream
from worker.state.idempotency import LEASES, IdempotencyState

WRITTEN = json.loads(
    Path(__file__).with_name("fixtures").joinpath("redis-of-0f26344.json").read_text("utf-8")
)
DATABASES = (6, 7)
SETTINGS = {"AUDIENCE_RETRY_BACKOFF_MAX": "50", "AUDIENCE_VISIBILITY_TIMEOUT": "60"}
"""With which the older worker ran: the visibility timeout dates what is delayed."""
STREAMS = ("flowing", "partly", "failing", "paused", "missing", "queued", "hanging")
DELIVERED_AT_ONCE = {
    "flowing": ["waiting-1", "waiting-2", "protocol-1", "mparticle-1", "delayed-1"],
    "partly": ["partly-2"],
    "failing": ["failing-1"],
    "queued": ["queued-1", "queued-2"],
    "hanging": ["hanging-1"],
}
"""By stream, the customers whose records no worker had delivered."""


def write(client, keys):
    """Restore keys as they were dumped, with what was left of their time."""
    client.flushdb()
    for key, dumped in keys.items():
        value = dumped["value"]
        match dumped["type"]:
            case "string":
                client.set(key, value)
            case "hash":
                client.hset(key, mapping=value)
            case "list":
                client.rpush(key, *value)
            case "set":
                client.sadd(key, *value)
            case "zset":
                client.zadd(key, value)
        if dumped["ttl"] > 0:
            client.pexpire(key, dumped["ttl"])


def stream(name):
    return Stream("main", "us-east-1", name)


@pytest.fixture
def upgraded(tmp_path, redis_url):
    """A stack over the older version's Redis. Its streams exist and are empty; no worker runs yet."""
    with FakeFirehose() as firehose:
        made = Stack(tmp_path, redis_url, firehose, DATABASES, secret_key=WRITTEN["secret_key"])
        for database, keys in zip(DATABASES, (WRITTEN["broker"], WRITTEN["state"]), strict=True):
            with Redis.from_url(f"{redis_url}/{database}") as client:
                write(client, keys)
        for name in STREAMS:
            firehose.create(name)
        yield made


def customers(stack, name):
    """The customers whose records have arrived in a stream, in their order."""
    lines = stack.firehose.accepted(name)
    return [json.loads(line)["UserIdentities"]["CustomerId"] for line in lines]


def test_everything_that_an_older_version_has_written_is_read(upgraded):
    services = upgraded.services
    snapshot = services.registry.snapshot()
    assert {found.name for found in snapshot.streams} == set(STREAMS)
    assert not snapshot.corrupt
    blocking = services.circuit_breakers.blocking()
    assert {stream("paused").queue, stream("missing").queue} <= blocking.keys()
    assert services.circuit_breakers.get(stream("failing")).until is not None
    assert [alert.id for alert in services.alerts.all()] == WRITTEN["alerts"]
    assert {letter.id for letter in services.dead_letters.all()} == set(WRITTEN["dead_letters"])
    for name, counts in WRITTEN["counts"].items():
        now = services.counters.of(stream(name))
        assert (now.enqueued, now.delivered, now.refused, now.retrying) == (
            counts["accepted"],
            counts["delivered"],
            counts["refused"],
            counts["retrying"],
        )


def test_everything_that_an_older_version_has_accepted_is_delivered_once(upgraded):
    services, broker = upgraded.services, upgraded.broker_client()
    (lease,) = (key for key in WRITTEN["state"] if key.startswith(LEASES))
    *_, task_id, retries = lease.split(":")
    state = services.idempotency.acquire(task_id, int(retries), "another worker")
    assert state is IdempotencyState.IN_PROGRESS
    # The minute of the worker that was killed is over.
    services.redis.delete(lease)
    far_away, *_ = broker.zrange("unacked_index", 0, 0, desc=True)

    with upgraded.worker("--concurrency", "2", env=SETTINGS):
        eventually(lambda: not broker.llen(CHANGES_QUEUE))
        eventually(lambda: broker.zrange("unacked_index", 0, -1) == [far_away])
        for name, expected in DELIVERED_AT_ONCE.items():
            eventually(lambda n=name, e=expected: sorted(customers(upgraded, n)) == sorted(e), what=name)
        assert not customers(upgraded, "paused")
        assert services.circuit_breakers.get(stream("failing")) is None

        for name in ("paused", "missing"):
            services.circuit_breakers.resume(stream(name))
        upgraded.replay(next(letter for letter in services.dead_letters.all() if letter.stream))
        eventually(lambda: customers(upgraded, "paused") == ["paused-1", "paused-2"])
        eventually(lambda: customers(upgraded, "missing") == ["missing-1"])
        eventually(lambda: services.counters.of(stream("missing")).delivered == 1)

    assert broker.zrange("unacked_index", 0, -1) == [far_away]
    delivered = services.counters.of(stream("flowing")).delivered
    assert delivered == WRITTEN["counts"]["flowing"]["delivered"] + len(DELIVERED_AT_ONCE["flowing"])
    # The invalid change of the older version, and the malformed message that this one has met.
    assert len(services.dead_letters.all()) == len(WRITTEN["dead_letters"])

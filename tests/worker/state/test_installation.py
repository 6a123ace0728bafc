"""A broker and a state that belong together hold the same identity; a state that lacks it is missing."""

import pytest
from identity import FakeBrokerIdentity
from redis.exceptions import ConnectionError as RedisConnectionError

from worker.state.installation import BROKER_REREAD_SECONDS, Installation
from worker.state.registry import INSTALLATION


@pytest.fixture
def broker():
    return FakeBrokerIdentity()


@pytest.fixture
def installation(redis, broker, clock):
    return Installation(redis, broker, clock)


@pytest.fixture
def connect(services):
    services.registry.configure(name="main")
    return lambda audience=1: services.registry.connect(
        audience_id=audience, configuration="main", delivery_stream_name="travel"
    )


def is_missing(installation, services):
    return installation.latest_of(services.registry) is None


def test_nothing_is_missing_where_nothing_was_ever_registered(installation, services):
    assert not is_missing(installation, services)


def test_both_hold_the_same_identity_once_a_connection_is_registered(installation, services, broker, redis):
    installation.register()
    assert broker.identity
    assert redis.get(INSTALLATION) == broker.identity
    assert not is_missing(installation, services)


def test_two_who_register_at_once_agree(redis, broker, clock):
    class Slow(FakeBrokerIdentity):
        """Another operator registers while this one has read that there is no identity."""

        def read(self):
            Installation(redis, broker, clock).register()

        def write(self, identity):
            broker.write(identity)

    Installation(redis, Slow(), clock).register()
    assert redis.get(INSTALLATION) == broker.identity


@pytest.mark.parametrize("stored", [None, "another-installation"])
def test_a_state_without_the_brokers_identity_is_missing(installation, services, redis, connect, stored):
    installation.register()
    connect()
    assert services.registry.refresh().routes
    redis.flushall()
    if stored:
        redis.set(INSTALLATION, stored)
    assert is_missing(installation, services)


def test_a_state_is_missing_from_the_beginning_where_its_url_points_elsewhere(installation, services, broker):
    broker.identity = "this-installation"
    assert is_missing(installation, services)


def test_it_is_there_again_when_it_is_restored_or_a_connection_is_registered(installation, services, redis):
    installation.register()
    identity = redis.get(INSTALLATION)
    redis.flushall()
    assert is_missing(installation, services)
    redis.set(INSTALLATION, identity)
    assert not is_missing(installation, services)
    redis.flushall()
    installation.register()
    assert not is_missing(installation, services)


def test_a_snapshot_from_before_the_identity_was_written_is_no_sign(installation, services, connect):
    connect()
    older = services.registry.refresh()
    installation.register()
    assert older.installation is None
    assert installation.latest_of(services.registry).routes


def test_a_registry_that_was_read_from_an_emptied_state_is_read_again_where_that_is_restored(
    services, redis, clock, connect
):
    """The state comes back between the reading of the registry and the comparison of the identities."""
    Installation(redis, identity := FakeBrokerIdentity(), clock).register()
    connect()
    kept = {key: redis.dump(key) for key in redis.scan_iter()}

    class Restoring(FakeBrokerIdentity):
        def read(self):
            for key, content in kept.items():
                redis.restore(key, 0, content, replace=True)
            return identity.identity

    redis.flushall()
    assert Installation(redis, Restoring(), clock).latest_of(services.registry).routes


def test_the_broker_is_not_asked_for_each_message(installation, services, broker, clock):
    installation.register()
    broker.reads = 0
    for _ in range(100):
        assert not is_missing(installation, services)
    assert broker.reads == 1
    clock.advance(BROKER_REREAD_SECONDS + 1)
    assert not is_missing(installation, services)
    assert broker.reads == 2


def test_an_installation_of_a_former_version_is_adopted(installation, services, redis, broker, connect):
    connect()
    installation.adopt()
    assert redis.get(INSTALLATION) == broker.identity is not None


def test_a_broker_that_was_emptied_is_adopted(installation, services, redis, broker, connect):
    installation.register()
    identity, broker.identity = broker.identity, None
    installation.adopt()
    assert broker.identity == redis.get(INSTALLATION) == identity


@pytest.mark.parametrize("has_connections", [False, True])
def test_a_state_that_is_not_the_brokers_is_not_adopted(
    installation, services, broker, connect, has_connections
):
    broker.identity = "this-installation"
    if has_connections:
        connect()
    installation.adopt()
    assert services.registry.refresh().installation is None
    assert is_missing(installation, services)


def test_a_new_installation_without_connections_is_not_adopted(installation, redis, broker):
    installation.adopt()
    assert (broker.identity, redis.get(INSTALLATION)) == (None, None)


def test_a_broker_without_a_place_for_it_changes_nothing(redis, services, clock):
    class RabbitMQ(FakeBrokerIdentity):
        def write(self, identity):
            """It holds nothing but messages."""

    installation = Installation(redis, RabbitMQ(), clock)
    installation.register()
    redis.flushall()
    assert not is_missing(installation, services)


def test_a_state_that_cannot_be_read_is_not_taken_for_a_missing_one(
    installation, services, broker, redis_server
):
    broker.identity = "this-installation"
    redis_server.connected = False
    with pytest.raises(RedisConnectionError):
        installation.latest_of(services.registry)

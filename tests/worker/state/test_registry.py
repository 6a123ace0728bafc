"""Who receives what: stored through the schemas, read through a snapshot."""

import json
import logging

import pytest

from worker.environment import read
from worker.errors import InvalidSettings, NotRegistered, SecretKeyError
from worker.queues import Stream
from worker.state import State
from worker.state.registry import CONFIGURATIONS, CONNECTIONS, REFRESH_AFTER

KEY = {"access_key_id": "A" * 16, "secret_access_key": "secretive"}


@pytest.fixture
def registry(state):
    state.registry.configure(name="main")
    return state.registry


@pytest.fixture
def reader(redis, secret_key, clock):
    """The registry as another process sees it."""
    return State(redis, read({"AUDIENCE_SECRET_KEY": secret_key}), clock=clock, monotonic=clock).registry


def connect(registry, audience_id=1, **settings):
    stream = {"configuration": "main", "delivery_stream_name": "travel"}
    return registry.connect(audience_id=audience_id, **(stream | settings))


def test_a_connection_routes_its_audience_to_its_stream(registry):
    identifier = connect(registry)
    (route,) = registry.snapshot().routes[1]
    assert (route.connection_id, route.stream) == (identifier, Stream("main", "us-east-1", "travel"))
    assert registry.snapshot().streams == {route.stream}


def test_an_audience_may_have_several_streams_and_a_stream_several_audiences(registry):
    connect(registry)
    connect(registry, delivery_stream_name="other")
    connect(registry, audience_id=2)
    snapshot = registry.snapshot()
    assert [len(snapshot.routes[audience]) for audience in (1, 2)] == [2, 1]
    assert {stream.name for stream in snapshot.streams} == {"travel", "other"}


def test_connecting_twice_is_one_connection_with_the_last_settings(registry):
    first = connect(registry)
    assert connect(registry, append_newline=False) == first
    assert [connection.append_newline for connection in registry.snapshot().connections.values()] == [False]


def test_the_same_name_under_another_configuration_is_another_stream(registry):
    registry.configure(name="other")
    assert connect(registry) != connect(registry, configuration="other")
    assert len(registry.snapshot().streams) == 2


def test_a_configuration_s_setting_reaches_the_view(registry):
    connect(registry)
    registry.configure(name="main", send_remove_on_identity_change=False)
    (route,) = registry.snapshot().routes[1]
    assert not route.view.send_remove_on_identity_change


def test_a_removed_connection_is_gone(registry):
    identifier = connect(registry)
    registry.disconnect(identifier)
    assert not registry.snapshot().routes
    with pytest.raises(NotRegistered, match="list them: audience-firehose connections"):
        registry.connection(identifier)


def test_a_secret_is_encrypted_where_it_is_stored(registry, redis, state):
    registry.configure(name="main", **KEY)
    assert "secretive" not in redis.hget(CONFIGURATIONS, "main")
    token = registry.snapshot().configurations["main"].secret_access_key
    assert state.cipher.decrypt(token) == "secretive"


def test_without_a_key_a_secret_is_refused_and_a_role_is_not(redis):
    registry = State(redis, read({})).registry
    with pytest.raises(SecretKeyError, match="AUDIENCE_SECRET_KEY"):
        registry.configure(name="main", **KEY)
    assert registry.configure(name="main", role_arn="arn:aws:iam::123456789012:role/firehose")


def test_a_wrong_setting_is_refused_without_repeating_a_secret(registry):
    with pytest.raises(
        InvalidSettings, match="an access key ID and a secret access key go together"
    ) as caught:
        registry.configure(name="main", secret_access_key="secretive")
    assert "secretive" not in str(caught.value)


def test_an_unknown_region_is_refused_with_one_that_is_near(registry):
    with pytest.raises(InvalidSettings, match=r"did you mean .*eu-west-1"):
        connect(registry, region="eu-west-11")


def test_a_connection_of_no_configuration_is_refused_with_the_command_that_makes_one(registry):
    with pytest.raises(InvalidSettings, match="audience-firehose configure other"):
        connect(registry, configuration="other")


def test_a_snapshot_is_a_second_old_at_most(registry, reader, clock):
    assert not reader.snapshot().routes
    connect(registry)
    clock.advance(REFRESH_AFTER - 0.01)
    assert not reader.snapshot().routes
    clock.advance(0.01)
    assert reader.snapshot().routes


def test_a_snapshot_is_read_again_only_where_something_has_changed(registry, reader, clock):
    first = reader.snapshot()
    clock.advance(REFRESH_AFTER)
    assert reader.snapshot() is first


def test_who_writes_sees_it_at_once(registry):
    registry.snapshot()
    connect(registry)
    assert registry.snapshot().routes


SPOILT = ["no JSON", "[]", "7", '{"audience_id": 1}', '{"secretive": 1}']


@pytest.mark.parametrize("spoilt", SPOILT)
def test_a_spoilt_connection_is_noted_and_does_not_hold_up_the_others(
    registry, redis, reader, caplog, spoilt
):
    connect(registry)
    redis.hset(CONNECTIONS, "7-abcdef01", spoilt)
    with caplog.at_level(logging.ERROR):
        snapshot = reader.snapshot()
    assert snapshot.routes.keys() == {1}
    assert snapshot.unreadable == {7}
    assert "'7-abcdef01' cannot be read" in caplog.text
    assert "secretive" not in caplog.text


def test_the_connections_of_a_spoilt_configuration_are_unreadable_too(registry, redis, reader):
    connect(registry)
    redis.hset(CONFIGURATIONS, "main", json.dumps({"name": "main", "access_key_id": "half"}))
    assert reader.snapshot().unreadable == {1}

"""The registry: configurations and connections are stored through the schemas and read in a snapshot."""

import json
import logging

import pytest

from schemas.quotas import default_quota
from schemas.settings import ConnectionSchema
from worker.config import read_settings
from worker.errors import InvalidSettings, NotRegistered, SecretKeyError
from worker.queues import Stream
from worker.services import Services
from worker.state import registry as registry_module
from worker.state.registry import CONFIGURATIONS, CONNECTIONS, REFRESH_AFTER_SECONDS

KEY = {"access_key_id": "A" * 16, "secret_access_key": "secretive"}


@pytest.fixture
def registry(services):
    services.registry.configure(name="main")
    return services.registry


@pytest.fixture
def reader(redis, secret_key, clock):
    """The registry as another process sees it."""
    return Services(
        redis, read_settings({"AUDIENCE_SECRET_KEY": secret_key}), clock=clock, monotonic=clock
    ).registry


@pytest.fixture
def overriding(redis, clock):
    """The registry of a process whose environment says otherwise than the quota table."""
    environment = read_settings({"AUDIENCE_STREAM_QUOTAS": "us-east-1=9requests/s,eu-west-1=8requests/s"})
    return Services(redis, environment, clock=clock, monotonic=clock).registry


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


def test_a_configuration_s_setting_reaches_the_projection(registry):
    connect(registry)
    registry.configure(name="main", send_remove_on_identity_change=False)
    (route,) = registry.snapshot().routes[1]
    assert not route.projection.send_remove_on_identity_change


def test_a_removed_connection_is_gone(registry):
    identifier = connect(registry)
    registry.disconnect(identifier)
    assert not registry.snapshot().routes
    with pytest.raises(NotRegistered, match="list them: audience-firehose connections"):
        registry.connection(identifier)


def test_a_configuration_is_not_forgotten_while_somebody_connects_with_it(registry, reader, monkeypatch):
    refresh = registry.refresh

    def meanwhile():
        found = refresh()
        monkeypatch.setattr(registry, "refresh", refresh)
        connect(reader)
        return found

    monkeypatch.setattr(registry, "refresh", meanwhile)
    with pytest.raises(InvalidSettings, match="main is used by 1-"):
        registry.forget("main")
    assert registry.refresh().connections


def test_nobody_connects_with_a_configuration_that_is_forgotten_meanwhile(registry, reader, monkeypatch):
    refresh = registry.refresh

    def meanwhile():
        found = refresh()
        monkeypatch.setattr(registry, "refresh", refresh)
        reader.forget("main")
        return found

    monkeypatch.setattr(registry, "refresh", meanwhile)
    with pytest.raises(InvalidSettings, match="there is no configuration 'main'"):
        connect(registry)
    assert not registry.refresh().connections


def test_a_corrupt_configuration_can_be_forgotten_and_not_while_it_is_used(registry, redis, reader):
    identifier = connect(registry)
    redis.hset(CONFIGURATIONS, "main", "no JSON")
    redis.incr(registry_module.VERSION)
    with pytest.raises(InvalidSettings, match=f"main is used by {identifier}"):
        reader.forget("main")
    reader.disconnect(identifier)
    reader.forget("main")
    assert not redis.hexists(CONFIGURATIONS, "main")


def test_a_secret_is_encrypted_where_it_is_stored(registry, redis, services):
    registry.configure(name="main", **KEY)
    assert "secretive" not in redis.hget(CONFIGURATIONS, "main")
    token = registry.snapshot().configurations["main"].secret_access_key
    assert services.cipher.decrypt(token) == "secretive"


def test_without_a_key_a_secret_is_refused_and_a_role_is_not(redis):
    registry = Services(redis, read_settings({})).registry
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
    clock.advance(REFRESH_AFTER_SECONDS - 0.01)
    assert not reader.snapshot().routes
    clock.advance(0.01)
    assert reader.snapshot().routes


def test_a_snapshot_is_read_again_only_where_something_has_changed(registry, reader, clock):
    first = reader.snapshot()
    clock.advance(REFRESH_AFTER_SECONDS)
    assert reader.snapshot() is first


def test_only_what_has_changed_is_read_again(registry, reader, clock, monkeypatch):
    connect(registry)
    reader.snapshot()
    connect(registry, audience_id=2)
    clock.advance(REFRESH_AFTER_SECONDS)
    loaded, load = [], ConnectionSchema.load

    def record_load(self, entry, **options):
        loaded.append(entry["audience_id"])
        return load(self, entry, **options)

    monkeypatch.setattr(ConnectionSchema, "load", record_load)
    assert reader.snapshot().routes.keys() == {1, 2}
    assert loaded == [2]


def test_concurrent_writers_lose_no_write(registry, reader, monkeypatch):
    identifier = connect(registry)
    changed, writes = registry_module._changed, []

    def meanwhile(*settings):
        if not writes:
            writes.append(identifier)
            connect(reader, stream_quota="7requests/s")
        return changed(*settings)

    monkeypatch.setattr(registry_module, "_changed", meanwhile)
    connect(registry, append_newline=False)
    connection = registry.snapshot().connections[identifier]
    assert (connection.stream_quota, connection.append_newline) == ("7requests/s", False)


def test_a_writer_sees_its_own_write_at_once(registry):
    registry.snapshot()
    connect(registry)
    assert registry.snapshot().routes


CORRUPT_ENTRIES = [
    *("no JSON", "[]", "7", '{"audience_id": 1}', '{"secretive": 1}'),
    '{"audience_id": 7, "configuration": "main", "delivery_stream_name": "x", "stream_quota": "secretive"}',
]


@pytest.mark.parametrize("corrupt", CORRUPT_ENTRIES)
def test_a_corrupt_connection_is_reported_and_does_not_hold_up_the_others(
    registry, redis, reader, caplog, corrupt
):
    connect(registry)
    redis.hset(CONNECTIONS, "7-abcdef01", corrupt)
    with caplog.at_level(logging.ERROR):
        snapshot = reader.snapshot()
    assert snapshot.routes.keys() == {1}
    assert snapshot.corrupt == {7}
    assert "'7-abcdef01' cannot be read" in caplog.text
    assert "secretive" not in caplog.text


def test_the_connections_of_a_corrupt_configuration_are_corrupt_too(registry, redis, reader):
    connect(registry)
    redis.hset(CONFIGURATIONS, "main", json.dumps({"name": "main", "access_key_id": "half"}))
    assert reader.snapshot().corrupt == {1}


TRAVEL = Stream("main", "us-east-1", "travel")
TABLE = default_quota("us-east-1")
MIB = 2**20


def test_a_stream_s_quota_is_its_region_s(registry):
    connect(registry)
    connect(registry, region="eu-central-1")
    quota = registry.snapshot().quota
    assert (quota(TRAVEL), quota(TRAVEL._replace(region="eu-central-1"))) == (
        TABLE,
        default_quota("eu-central-1"),
    )


def test_the_environment_changes_a_region_s_quota(registry, overriding):
    connect(registry)
    assert overriding.snapshot().quota(TRAVEL) == TABLE._replace(requests=9)


def test_a_stream_that_nobody_has_registered_has_its_region_s_quota(overriding):
    quota = overriding.snapshot().quota
    assert quota(TRAVEL._replace(region="eu-west-1")) == default_quota("eu-west-1")._replace(requests=8)
    assert quota(TRAVEL._replace(region="eu-west-2")) == default_quota("eu-west-2")


@pytest.mark.parametrize(
    ("stated", "changed"),
    [("1MiB/s", {"bytes": MIB}), ("50MiB/s", {"bytes": 50 * MIB}), ("7records/s", {"records": 7})],
)
def test_a_connection_lowers_and_raises_its_stream_s_quota_and_keeps_the_rest(
    registry, overriding, stated, changed
):
    connect(registry, stream_quota=stated)
    assert registry.snapshot().quota(TRAVEL) == TABLE._replace(**changed)
    assert overriding.snapshot().quota(TRAVEL) == TABLE._replace(**({"requests": 9} | changed))


def test_of_a_stream_s_connections_the_smallest_figures_count(registry):
    connect(registry, audience_id=1, stream_quota="2MiB/s+300requests/s")
    connect(registry, audience_id=2, stream_quota="3MiB/s+200requests/s")
    connect(registry, audience_id=3)
    connect(registry, audience_id=4, delivery_stream_name="other", stream_quota="1B/s")
    assert registry.snapshot().quota(TRAVEL) == TABLE._replace(bytes=2 * MIB, requests=200)


def test_a_stream_gets_its_region_s_quota_back_with_the_last_connection_that_set_one(registry):
    connect(registry, audience_id=1)
    removed = connect(registry, audience_id=2, stream_quota="1MiB/s")
    lifted = connect(registry, audience_id=3, stream_quota="2MiB/s")
    registry.disconnect(removed)
    assert registry.snapshot().quota(TRAVEL).bytes == 2 * MIB
    assert connect(registry, audience_id=3, stream_quota="") == lifted
    assert registry.snapshot().quota(TRAVEL) == TABLE


def test_a_quota_is_worked_out_once_a_snapshot(registry):
    connect(registry, stream_quota="1MiB/s")
    snapshot = registry.snapshot()
    assert snapshot.quota(TRAVEL) is snapshot.quota(TRAVEL)


def test_a_connection_from_before_there_were_quotas_is_read(registry, redis, reader):
    identifier = connect(registry, stream_quota="1MiB/s")
    stored = json.loads(redis.hget(CONNECTIONS, identifier))
    del stored["stream_quota"]
    redis.hset(CONNECTIONS, identifier, json.dumps(stored))
    snapshot = reader.snapshot()
    assert snapshot.routes.keys() == {1}
    assert snapshot.quota(TRAVEL) == TABLE


def test_a_wrong_quota_is_refused(registry):
    with pytest.raises(InvalidSettings, match="stream_quota: '1MB' is not a quota such as 1MiB/s"):
        connect(registry, stream_quota="1MB")

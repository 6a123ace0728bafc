"""The checks that find a Redis unfit to keep messages, and their messages to the operator."""

import re

import pytest
from redis import Redis
from redis.exceptions import ConnectionError
from waiting import eventually

from devstack.processes import ROOT
from worker.store.connections import connect_redis
from worker.store.server_checks import (
    Check,
    Outcome,
    _probes,
    check_cluster,
    check_eviction,
    check_persistence,
    check_redis,
    check_replication,
    check_shards,
    check_version,
    unreachable,
)

PREFIX = "audience:"


def findings(redis):
    return {finding.check: finding for finding in check_redis(redis, PREFIX)}


@pytest.fixture
def limited(real_redis):
    """A client whose user may do what the test says."""

    def client(*rules):
        real_redis.acl_setuser("limited", enabled=True, nopass=True, reset=True)
        real_redis.execute_command("ACL", "SETUSER", "limited", *rules)
        options = real_redis.connection_pool.connection_kwargs
        return Redis(host=options["host"], port=options["port"], username="limited", password="any")

    yield client
    real_redis.acl_deluser("limited")


def test_nothing_is_wrong_with_a_server_as_the_documentation_sets_it_up(real_redis):
    assert {finding.outcome for finding in findings(real_redis).values()} == {Outcome.OK}


def test_the_checks_leave_no_key_behind(real_redis):
    findings(real_redis)
    assert real_redis.keys() == []


def test_a_policy_that_evicts_is_a_failure_and_without_a_limit_a_warning(real_redis):
    real_redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert findings(real_redis)[Check.EVICTION].outcome == Outcome.WARNING
        real_redis.config_set("maxmemory", "1gb")
        found = findings(real_redis)[Check.EVICTION]
    finally:
        real_redis.config_set("maxmemory-policy", "noeviction")
    assert found.outcome == Outcome.FAILED
    assert "set maxmemory-policy to noeviction" in found.message


def test_each_command_of_a_script_is_tried():
    scripts = [path.read_text("utf-8") for path in (ROOT / "worker").rglob("*.lua")]
    named = re.compile(r"(?:redis\.p?call\(|on_each\(\S+ \S+ )'([A-Z]+)'")
    commands = {command for script in scripts for command in named.findall(script)}

    assert {"HSETNX", "ZMSCORE"} <= commands
    assert commands - {command for command, *_ in _probes(PREFIX)} == set()


@pytest.mark.parametrize("denied", ["hdel", "eval", "zrem", "hsetnx", "smismember"])
def test_a_missing_permission_is_named(limited, denied):
    found = findings(limited("~*", "&*", "+@all", f"-{denied}"))[Check.PERMISSIONS]
    assert found.outcome == Outcome.FAILED
    assert f"+{denied}" in found.message


def test_a_user_of_other_keys_only_lacks_permissions(limited):
    found = findings(limited("~other*", "&*", "+@all"))[Check.PERMISSIONS]
    assert found.outcome == Outcome.FAILED


def test_a_user_without_info_is_reported(limited):
    (found,) = check_redis(limited("~*", "&*", "+@all", "-info"), PREFIX)
    assert (found.outcome, "+info" in found.message) == (Outcome.FAILED, True)


def test_a_broker_in_cluster_mode_is_a_failure(redis_cluster):
    with Redis.from_url(redis_cluster.url) as broker:
        found = check_cluster(broker, broker.info())
    assert (found.outcome, "Redis Cluster" in found.message) == (Outcome.FAILED, True)


def test_nothing_is_wrong_with_the_state_on_a_cluster(cluster_redis):
    found = findings(cluster_redis)
    assert {finding.outcome for finding in found.values()} == {Outcome.OK}
    assert "Redis Cluster of 3 masters" in found[Check.CLUSTER].message


@pytest.mark.parametrize(
    ("policy", "outcome"), [("volatile-lru", Outcome.WARNING), ("allkeys-lru", Outcome.FAILED)]
)
def test_a_cluster_may_remove_what_expires_and_nothing_else(policy, outcome, redis_cluster, cluster_redis):
    owner = redis_cluster.client(redis_cluster.owner())
    owner.config_set("maxmemory", "1gb")
    owner.config_set("maxmemory-policy", policy)
    try:
        found = findings(cluster_redis)[Check.EVICTION]
    finally:
        owner.config_set("maxmemory-policy", "noeviction")
        owner.config_set("maxmemory", 0)
    assert (found.outcome, policy in found.message) == (outcome, True)


def test_a_cluster_some_of_whose_slots_have_no_master_is_a_failure(redis_cluster, cluster_redis):
    owner, slot = redis_cluster.client(redis_cluster.owner()), 0
    owner.cluster("DELSLOTS", slot)
    try:
        eventually(lambda: check_shards(cluster_redis).outcome == Outcome.FAILED)
        message = check_shards(cluster_redis).message
    finally:
        owner.cluster("ADDSLOTS", slot)
        eventually(redis_cluster.is_ok)
    assert "cluster_state is fail" in message


def test_a_database_that_a_cluster_does_not_have_is_the_only_finding(redis_cluster):
    with connect_redis(f"{redis_cluster.url}/1") as state:
        (found,) = check_redis(state, PREFIX)
    assert (found.check, found.outcome, "/0" in found.message) == (Check.CLUSTER, Outcome.FAILED, True)


@pytest.mark.parametrize(
    ("info", "outcome"),
    [
        ({"redis_version": "6.2.0"}, Outcome.OK),
        ({"redis_version": "10.0.1"}, Outcome.OK),
        ({"redis_version": "7.2.4", "valkey_version": "9.0.0"}, Outcome.OK),
        ({"redis_version": "6.0.16"}, Outcome.FAILED),
    ],
)
def test_a_version_before_6_2_is_a_failure(info, outcome):
    assert check_version(info).outcome == outcome


@pytest.mark.parametrize(
    ("info", "outcome"),
    [
        ({"aof_enabled": 1, "aof_last_write_status": "ok"}, Outcome.OK),
        ({"aof_enabled": 0}, Outcome.WARNING),
        ({"aof_enabled": 1, "aof_last_write_status": "err"}, Outcome.FAILED),
        ({"aof_enabled": 0, "rdb_last_bgsave_status": "err"}, Outcome.FAILED),
    ],
)
def test_a_server_that_writes_no_file_is_a_warning_and_one_that_cannot_a_failure(info, outcome):
    assert check_persistence(info).outcome == outcome


@pytest.mark.parametrize(
    ("info", "outcome"),
    [
        ({"role": "master", "connected_slaves": 0}, Outcome.OK),
        ({"role": "master", "connected_slaves": 2}, Outcome.OK),
        ({"role": "slave"}, Outcome.FAILED),
    ],
)
def test_a_replica_is_a_failure(info, outcome):
    assert check_replication(info).outcome == outcome


def test_a_policy_that_the_server_does_not_tell_is_taken_for_kept():
    assert check_eviction(Redis(), {}).outcome == Outcome.OK


def test_a_server_that_cannot_be_asked_is_a_failure_without_its_url():
    found = unreachable(ConnectionError("redis://:secret@host"))
    assert (found.outcome, "secret" in found.message) == (Outcome.FAILED, False)


def test_a_server_that_cannot_be_asked_is_a_failure_with_the_reason():
    found = unreachable(ConnectionError("Error 111 connecting to redis.example:6379. Connection refused."))
    assert "out of reach (Error 111 connecting to redis.example:6379. Connection refused)" in found.message

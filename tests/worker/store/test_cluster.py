"""The state's client on a real Redis Cluster: where its keys lie, and how it finds their master."""

import re

import pytest

from devstack.processes import ROOT, free_port
from worker.store.cluster import KEY_PREFIX, SLOT, Address, DatabaseRefused, Shard, with_prefix
from worker.store.connections import connect_redis
from worker.store.server_checks import Outcome, check_shards

AWAY = f"redis://127.0.0.1:{free_port()}"
KEY = "audience:some"
PROGRAM = re.compile(r"```python\n(import os\n.*?connect_redis.*?)```", re.DOTALL)
HERE = Address("here", 1)


@pytest.fixture(autouse=True)
def first_master_owns_the_slot(redis_cluster):
    yield
    if redis_cluster.owner() != 0:
        redis_cluster.migrate(0)


def owner(redis_cluster):
    return redis_cluster.client(redis_cluster.owner())


def test_each_key_has_the_prefix_and_lies_on_the_master_of_its_slot(redis_cluster, cluster_redis):
    cluster_redis.set(KEY, 1)
    with cluster_redis.pipeline() as pipe:
        pipe.incr(KEY).sadd("audience:set", "member").execute()
    assert redis_cluster.owner() != 1
    assert sorted(owner(redis_cluster).keys()) == [f"{KEY_PREFIX}audience:set", f"{KEY_PREFIX}{KEY}"]
    assert owner(redis_cluster).cluster("KEYSLOT", f"{KEY_PREFIX}{KEY}") == SLOT


def test_on_a_server_without_cluster_mode_keys_stay_as_they_are(real_redis, real_redis_url):
    with connect_redis(real_redis_url) as client:
        client.set(KEY, 1)
        client.pipeline().incr(KEY).execute()
    assert real_redis.keys() == [KEY]


def test_a_name_that_a_cluster_has_returned_names_the_same_key(cluster_redis):
    cluster_redis.set(KEY, 1)
    (name,) = cluster_redis.scan_iter(match="audience:*")
    assert (name, cluster_redis.get(name)) == (f"{KEY_PREFIX}{KEY}", "1")
    assert with_prefix(name.encode()) == name.encode()


def test_a_client_follows_its_slot_to_another_master(redis_cluster, cluster_redis):
    cluster_redis.set(KEY, 1)
    redis_cluster.migrate(2)
    assert cluster_redis.incr(KEY) == 2
    with cluster_redis.pipeline() as pipe:
        assert pipe.incr(KEY).get(KEY).execute() == [3, "3"]
    assert owner(redis_cluster).keys() == [f"{KEY_PREFIX}{KEY}"]


def test_a_pipeline_follows_its_slot_and_runs_once(redis_cluster, cluster_redis):
    cluster_redis.set(KEY, 1)
    redis_cluster.migrate(2)
    with cluster_redis.pipeline() as pipe:
        assert pipe.incr(KEY).incr(KEY).execute() == [2, 3]


def test_while_its_slot_migrates_a_command_waits_for_the_end(redis_cluster, cluster_redis, monkeypatch):
    cluster_redis.set(KEY, 1)
    steps = redis_cluster.begin_migration(2)
    next(steps)
    # The first attempt finds a key that is not there on the master that still owns the slot.
    pauses = []

    def end_migration(seconds):
        pauses.append(seconds)
        for _ in steps:
            pass

    monkeypatch.setattr("redis.retry.sleep", end_migration)
    assert cluster_redis.set("audience:new", 1)
    assert cluster_redis.incr(KEY) == 2
    assert pauses
    assert len(owner(redis_cluster).keys()) == 2


@pytest.mark.parametrize("first", [AWAY, ""], ids=["one is away", "one is empty"])
def test_of_several_urls_one_node_that_answers_is_enough(redis_cluster, first):
    urls = ";".join(filter(None, (first, redis_cluster.url)))
    with connect_redis(urls) as client:
        assert client.set(KEY, 1)


def test_a_database_but_the_first_is_refused_with_the_reason(redis_cluster):
    with (
        connect_redis(f"{redis_cluster.url}/1") as client,
        pytest.raises(DatabaseRefused, match="end with /0"),
    ):
        client.get(KEY)


def test_the_documented_program_copies_the_state_of_another_server(
    real_redis, real_redis_url, redis_cluster, cluster_redis, monkeypatch
):
    real_redis.hset("audience:connections", "1-a", "{}")
    real_redis.set("audience:received:id", 1, ex=100)
    real_redis.set("another program's", 1)
    monkeypatch.setenv("OLD_REDIS_URL", real_redis_url)
    monkeypatch.setenv("AUDIENCE_REDIS_URL", redis_cluster.url)
    (program,) = PROGRAM.findall((ROOT / "docs/high-availability.md").read_text("utf-8"))
    exec(program)
    assert sorted(cluster_redis.keys()) == ["audience:connections", "audience:received:id"]
    assert cluster_redis.hgetall("audience:connections") == {"1-a": "{}"}
    assert 0 < cluster_redis.ttl("audience:received:id") <= 100


def test_a_user_who_may_not_ask_for_the_slots_is_redirected_and_warned(redis_cluster):
    for number in range(3):
        redis_cluster.client(number).acl_setuser(
            "limited", enabled=True, nopass=True, reset=True, keys=[f"{KEY_PREFIX}*"], categories=["+@all"]
        )
        redis_cluster.client(number).execute_command("ACL", "SETUSER", "limited", "-cluster")
    with connect_redis(redis_cluster.url, username="limited", password="any") as client:
        assert client.set(KEY, 1)
        assert check_shards(client).outcome == Outcome.WARNING
    for number in range(3):
        redis_cluster.client(number).acl_deluser("limited")


def test_a_node_that_names_no_host_is_reached_as_the_one_that_was_asked():
    shard = Shard([HERE])
    shard.learn([[0, SLOT, [b"", 2, b"id"]], [SLOT + 1, 16_383, [None, 3, b"id"]]], HERE)
    assert shard.owner == Address("here", 2)
    assert shard.nodes == [HERE, Address("here", 2), Address("here", 3)]
    shard.move(("?", 3), HERE)
    assert shard.owner == Address("here", 3)


def test_a_slot_that_no_master_owns_has_no_owner():
    shard = Shard([HERE])
    shard.learn([[0, SLOT - 1, ["there", 2, "id"]]], HERE)
    assert shard.owner is None

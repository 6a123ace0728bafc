"""Checks that a Redis keeps what it is given: for `audience-firehose doctor` and for a worker's start."""

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from redis import Redis
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from worker.store.cluster import DatabaseRefused, uses_shard

OLDEST_VERSION = (6, 2)
"""The oldest Redis that is tested."""
KEPT_POLICY = "noeviction"
EXPIRING_KEYS_ALONE = "volatile-"
"""The beginning of the policies that remove keys only that expire some time."""
MAX_LAG_SECONDS = 10
"""A replica says each second how far it is. Redis's own default of `min-replicas-max-lag`."""
PROBE_SECONDS = 5
"""After which Redis itself removes what a check has written and could not remove."""


class Check(StrEnum):
    """The checks of a server."""

    CONNECTION = "connection"
    VERSION = "version"
    CLUSTER = "cluster mode"
    EVICTION = "maxmemory-policy"
    PERSISTENCE = "persistence"
    REPLICATION = "replication"
    PERMISSIONS = "permissions"
    QUEUE_TYPE = "default queue type"
    DELIVERY_LIMIT = "delivery limit"


class Outcome(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


class Finding(NamedTuple):
    """The result of one check. Its message is one line, and says what to do where something is wrong."""

    check: Check
    outcome: Outcome
    message: str


def check_redis(redis: Redis, key_prefix: str, wait_replicas: int = 0) -> Iterator[Finding]:
    """Check a server. Keys of the check begin with the prefix, and are removed. Raises `RedisError`.

    `wait_replicas` is how many replicas writes wait for.
    """
    try:
        info = redis.info("all")
    except DatabaseRefused as error:
        yield Finding(Check.CLUSTER, Outcome.FAILED, str(error))
        return
    except NoPermissionError:
        yield Finding(
            Check.PERMISSIONS, Outcome.FAILED, "INFO is denied: nothing else can be checked; add +info"
        )
        return
    yield check_version(info)
    yield check_cluster(redis, info)
    yield check_eviction(redis, info)
    yield check_persistence(info)
    yield check_replication(info, wait_replicas)
    yield check_permissions(redis, key_prefix, wait_replicas)


def check_version(info: Mapping[str, Any]) -> Finding:
    """Whether this version is one that is tested."""
    version = str(info.get("valkey_version") or info.get("redis_version"))
    name = "Valkey" if "valkey_version" in info else "Redis"
    if tuple(map(int, str(info["redis_version"]).split(".")[:2])) < OLDEST_VERSION:
        return Finding(Check.VERSION, Outcome.FAILED, f"{name} {version}: upgrade to 6.2 or later")
    return Finding(Check.VERSION, Outcome.OK, f"{name} {version}")


def check_cluster(redis: Redis, info: Mapping[str, Any]) -> Finding:
    """Whether a script reaches all keys: on a cluster only those of the state, which share a hash tag."""
    if not info.get("cluster_enabled"):
        return Finding(Check.CLUSTER, Outcome.OK, "off")
    if not uses_shard(redis):
        message = (
            "a Redis Cluster, where queues lie on several masters and no script reaches all of them: use a"
            " Redis without cluster mode, Sentinel or RabbitMQ; the state may be on a cluster"
        )
        return Finding(Check.CLUSTER, Outcome.FAILED, message)
    return check_shards(redis)


def check_shards(redis: Redis) -> Finding:
    """Whether each slot of a cluster has a master: by default it answers only then."""
    try:
        cluster = redis.cluster("INFO")
    except NoPermissionError:
        message = (
            "a Redis Cluster; CLUSTER is denied: after a failover its nodes cannot be asked; add +cluster"
        )
        return Finding(Check.CLUSTER, Outcome.WARNING, message)
    message = f"a Redis Cluster of {cluster['cluster_size']} masters, one of which has the whole state"
    if cluster["cluster_state"] != "ok":
        message += f"; cluster_state is {cluster['cluster_state']}: see CLUSTER NODES, and bring masters back"
        return Finding(Check.CLUSTER, Outcome.FAILED, message)
    return Finding(Check.CLUSTER, Outcome.OK, message)


def check_eviction(redis: Redis, info: Mapping[str, Any]) -> Finding:
    """Whether a full server refuses writes, and removes no message."""
    policy, limit = info.get("maxmemory_policy", KEPT_POLICY), info.get("maxmemory")
    if policy == KEPT_POLICY:
        return Finding(Check.EVICTION, Outcome.OK, policy)
    if policy.startswith(EXPIRING_KEYS_ALONE) and uses_shard(redis):
        # ElastiCache Serverless has no other policy. No message, dead letter or setting of the state expires.
        message = (
            f"{policy}: a full cluster removes leases and idempotency records, and batches are repeated; set"
            f" maxmemory-policy to {KEPT_POLICY}, or have it never full"
        )
        return Finding(Check.EVICTION, Outcome.WARNING, message)
    advice = f"{policy}: set maxmemory-policy to {KEPT_POLICY}, or Redis removes messages"
    if limit:
        return Finding(Check.EVICTION, Outcome.FAILED, advice)
    return Finding(Check.EVICTION, Outcome.WARNING, f"{advice} once maxmemory is set")


def check_persistence(info: Mapping[str, Any]) -> Finding:
    """Whether a restart loses at most a second."""
    statuses = (info.get("aof_last_write_status"), info.get("rdb_last_bgsave_status"))
    if "err" in statuses:
        message = "the last write of its file failed: see its log and the space on its disk"
        return Finding(Check.PERSISTENCE, Outcome.FAILED, message)
    if info.get("aof_enabled"):
        return Finding(Check.PERSISTENCE, Outcome.OK, "appendonly yes")
    message = "appendonly no: a restart loses all since the last snapshot; set appendonly yes"
    return Finding(Check.PERSISTENCE, Outcome.WARNING, message)


def check_replication(info: Mapping[str, Any], wait_replicas: int = 0) -> Finding:
    """Whether it is a master, and has the replicas that writes wait for."""
    if info.get("role", "master") != "master":
        message = "a replica, which accepts no write: the URL must lead to the master"
        return Finding(Check.REPLICATION, Outcome.FAILED, message)
    replicas = info.get("connected_slaves", 0)
    message = f"a master with {replicas} replicas" if replicas else "a master without a replica"
    if (confirming := confirming_replicas(info)) < wait_replicas:
        message += (
            f", of which {confirming} keep up: AUDIENCE_REDIS_WAIT_REPLICAS asks for {wait_replicas};"
            " bring replicas back, or lower it"
        )
        return Finding(Check.REPLICATION, Outcome.FAILED, message)
    return Finding(Check.REPLICATION, Outcome.OK, message)


def confirming_replicas(info: Mapping[str, Any]) -> int:
    """How many replicas have said within the last seconds how far they are."""
    replicas = (info.get(f"slave{number}", {}) for number in range(info.get("connected_slaves", 0)))
    return sum(
        replica.get("state") == "online" and replica.get("lag", 0) <= MAX_LAG_SECONDS for replica in replicas
    )


def check_permissions(redis: Redis, key_prefix: str, wait_replicas: int = 0) -> Finding:
    """Whether the user may run the commands that workers need, on keys of this prefix."""
    probes = [*_probes(key_prefix), *([("WAIT", 0, 1)] if wait_replicas else [])]
    missing = sorted({command[0] for command in probes if is_denied(redis, command)})
    if missing:
        needed = " ".join(f"+{command.lower()}" for command in missing)
        message = f"the user may not run {', '.join(missing)} on {key_prefix}*: add {needed}"
        return Finding(Check.PERMISSIONS, Outcome.FAILED, message)
    return Finding(Check.PERMISSIONS, Outcome.OK, "the commands that were tried are allowed")


def is_denied(redis: Redis, command: Sequence[Any]) -> bool:
    """Whether a user may not run a command; it is run. Raises `RedisError` where the server is away."""
    try:
        redis.execute_command(*command)
    except NoPermissionError:
        return True
    except ResponseError as error:
        # A script before Redis 7 reports it as any error of a script.
        return "NOPERM" in str(error)
    return False


def _probes(prefix: str) -> Iterator[tuple[Any, ...]]:
    """The commands of all scripts, and others that workers run, on keys that exist for a moment."""
    text, items, fields, members, scores = (
        f"{prefix}doctor:{kind}" for kind in ("text", "list", "hash", "set", "zset")
    )
    yield ("SET", text, 1, "EX", PROBE_SECONDS)
    yield ("GET", text)
    yield ("MGET", text)
    yield ("EXISTS", text)
    yield ("INCR", text)
    yield ("EXPIRE", text, PROBE_SECONDS)
    yield ("PERSIST", text)
    yield ("TYPE", text)
    yield ("EVAL", "return KEYS[1]", 1, text)
    yield ("LPUSH", items, 1)
    yield ("RPUSH", items, 1)
    yield ("LLEN", items)
    yield ("LINDEX", items, 0)
    yield ("LPOS", items, 1)
    yield ("LRANGE", items, 0, 0)
    yield ("LSET", items, 0, 1)
    yield ("LREM", items, 1, 1)
    yield ("RPOP", items)
    yield ("HSETNX", fields, "probe", 1)
    yield ("HSET", fields, "probe", 1)
    yield ("HGET", fields, "probe")
    yield ("HMGET", fields, "probe")
    yield ("HGETALL", fields)
    yield ("HVALS", fields)
    yield ("HLEN", fields)
    yield ("HEXISTS", fields, "probe")
    yield ("HINCRBY", fields, "probe", 1)
    yield ("HDEL", fields, "probe")
    yield ("SADD", members, "probe")
    yield ("SISMEMBER", members, "probe")
    yield ("SMISMEMBER", members, "probe")
    yield ("SMEMBERS", members)
    yield ("SREM", members, "probe")
    yield ("ZADD", scores, 1, "probe")
    yield ("ZSCORE", scores, "probe")
    yield ("ZMSCORE", scores, "probe")
    yield ("ZRANGE", scores, 0, 0)
    yield ("ZRANGEBYSCORE", scores, 0, 0)
    yield ("ZREM", scores, "probe")
    yield ("TIME",)
    for key in (text, items, fields, members, scores):
        yield ("UNLINK", key)
        yield ("DEL", key)


def unreachable(error: RedisError | OSError) -> Finding:
    """The finding of a server that cannot be asked."""
    reason = str(error).rstrip(".")
    if isinstance(error, ResponseError) or "://" in reason:
        # It may quote what was sent, or a password.
        reason = ""
    message = f"out of reach ({reason or type(error).__name__}): start it, or correct its URL"
    return Finding(Check.CONNECTION, Outcome.FAILED, message)

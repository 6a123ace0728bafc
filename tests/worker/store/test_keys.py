"""Which words of a command are keys, as a server says itself."""

import pytest

from worker.store.keys import KEYLESS_COMMANDS, keys_of

COMMANDS = [
    ("DEL", "one", "two"),
    ("EXISTS", "one", "two"),
    ("MGET", "one", "two"),
    ("UNLINK", "one", "two"),
    ("SET", "key", "value", "EX", 5),
    ("GET", "key"),
    ("INCR", "key"),
    ("EXPIRE", "key", 5),
    ("TTL", "key"),
    ("TYPE", "key"),
    ("SETRANGE", "key", 0, "value"),
    ("HSET", "key", "field", "value"),
    ("HDEL", "key", "one", "two"),
    ("HGETALL", "key"),
    ("HINCRBY", "key", "field", 1),
    ("HINCRBYFLOAT", "key", "field", 1.5),
    ("LPUSH", "key", "one", "two"),
    ("LTRIM", "key", 0, 1),
    ("LRANGE", "key", 0, 1),
    ("SADD", "key", "one", "two"),
    ("SMEMBERS", "key"),
    ("ZADD", "key", 1, "member"),
    ("ZMSCORE", "key", "one", "two"),
    ("ZREMRANGEBYSCORE", "key", 0, 1),
    ("EVAL", "return 1", 2, "one", "two", "argument"),
    ("EVALSHA", "digest", 1, "one", "argument"),
]
FIRST_KEY = 3
"""The position, in what a server says of a command, of its first key's position."""


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_the_keys_of_a_command_are_those_that_a_server_finds(words, real_redis):
    assert keys_of(words) == real_redis.command_getkeys(*words)


@pytest.mark.parametrize("name", sorted(KEYLESS_COMMANDS))
def test_a_command_without_keys_has_none_on_a_server(name, real_redis):
    (facts,) = real_redis.execute_command("COMMAND INFO", name)
    # `WAITAOF` came with Redis 7.2.
    assert facts is None or facts[FIRST_KEY] == 0


def test_a_pattern_of_keys_counts_as_a_key():
    assert keys_of(("SCAN", 0, "MATCH", "audience:*", "COUNT", 10)) == ["audience:*"]
    assert keys_of(("SCAN", 0)) == []
    assert keys_of(("KEYS", "audience:*")) == ["audience:*"]


@pytest.mark.parametrize("words", [("SCRIPT LOAD", "text"), ("CLUSTER", "SLOTS"), ("INFO", "memory")])
def test_a_command_with_a_subcommand_has_no_key(words):
    assert keys_of(words) == []

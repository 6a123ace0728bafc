"""Lists, sets and hashes of texts in one answer."""

import pytest

from worker.store.joined import read_hash, read_texts


def test_the_texts_of_a_list_keep_their_order(redis):
    redis.rpush("list", "b", "", "a")

    assert read_texts(redis, "list") == ["b", "", "a"]


def test_the_texts_of_a_set(redis):
    redis.sadd("set", "a", "b")

    assert sorted(read_texts(redis, "set")) == ["a", "b"]


@pytest.mark.parametrize("value", ["1", "", "with\nline\nfeeds"])
def test_a_hash_is_read_whatever_its_values_hold(redis, value):
    redis.hset("hash", mapping={"a": value, "b": "2"})

    assert read_hash(redis, "hash") == {"a": value, "b": "2"}


def test_a_key_that_is_not_there_holds_nothing(redis):
    assert read_texts(redis, "nothing") == []
    assert read_hash(redis, "nothing") == {}

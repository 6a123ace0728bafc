"""Atomic groups of commands: all run, their keys are declared, and an error among them is raised."""

import pytest
from redis.exceptions import ResponseError

from worker.store.atomic import WRITE_FIRST_KEY, atomically, read_atomically
from worker.store.scripts import Script


def test_the_answers_come_in_the_order_of_the_commands(redis):
    answers = atomically(redis, lambda pipe: pipe.set("a", 1).incr("a").hset("h", "f", "v").get("a"))
    assert answers[1:] == [2, 1, "2"]


def test_an_error_is_raised_after_the_other_commands_have_run(redis):
    redis.set("text", "no number")
    with pytest.raises(ResponseError):
        atomically(redis, lambda pipe: pipe.incr("text").set("after", "ran"))
    assert redis.get("after") == "ran"


def test_a_read_writes_nothing_and_leaves_no_key(redis):
    redis.set("a", 1)
    assert read_atomically(redis, lambda pipe: pipe.get("a").get("b")) == ["1", None]
    assert redis.keys() == ["a"]


def test_the_key_that_is_deleted_first_never_exists(redis):
    atomically(redis, lambda pipe: pipe.set("a", 1))
    assert not redis.exists(WRITE_FIRST_KEY)


def test_each_command_has_its_keys_and_its_other_words(redis):
    redis.set("one", 1)
    redis.set("two", 2)
    answers = atomically(
        redis, lambda pipe: pipe.exists("one", "two", "three").delete("one", "two").set("two", 3, ex=5)
    )
    assert (answers, redis.keys(), redis.ttl("two")) == ([2, 2, "OK"], ["two"], 5)


def test_a_script_says_its_name_and_not_its_text():
    assert repr(Script("worker.store", "atomically")) == "<Script atomically>"

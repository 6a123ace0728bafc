"""Writes that replicas confirm, with a real master and its replica."""

import pytest
from redis.exceptions import OutOfMemoryError

from worker.store import replicas as module
from worker.store.replicas import TooFewReplicas, run_confirmed
from worker.store.scripts import Script

SECRET = "customer-4711"
WRITE = Script("worker.store", "touch")


def test_the_answer_comes_once_a_replica_has_the_write(master):
    assert run_confirmed(master, 1, lambda redis: redis.lpush("list", "a")) == 1
    assert run_confirmed(master, 1, lambda redis: WRITE(redis, keys=["text"], args=["b"])) is None
    assert (master.lrange("list", 0, -1), master.get("text")) == (["a"], "b")


def test_a_write_that_a_frozen_replica_does_not_confirm_raises_an_error_and_stays(master, frozen):
    with pytest.raises(TooFewReplicas, match="0 of 1 replicas"):
        run_confirmed(master, 1, lambda redis: redis.lpush("list", "a"))
    assert master.llen("list") == 1


def test_a_command_that_finds_nothing_to_write_is_not_confirmed_by_a_frozen_replica(master, frozen):
    """As when a dead letter is stored again, over a connection that has written nothing yet."""
    master.connection_pool.disconnect()
    with pytest.raises(TooFewReplicas):
        run_confirmed(master, 1, lambda redis: redis.get("nothing"))


def test_more_replicas_than_there_are_do_not_confirm(master, monkeypatch):
    monkeypatch.setattr(module, "CONFIRM_TIMEOUT_MILLISECONDS", 50)
    with pytest.raises(TooFewReplicas, match="1 of 2 replicas"):
        run_confirmed(master, 2, lambda redis: redis.set("a", 1))


def test_without_replicas_to_wait_for_the_command_runs_alone(master):
    assert run_confirmed(master, 0, lambda redis: redis.set("a", 1)) is True
    assert not master.exists(module.CONFIRMED)


def test_an_error_of_the_command_is_raised_without_its_words(master):
    master.set("text", "no list")
    with pytest.raises(Exception, match="WRONGTYPE") as caught:
        run_confirmed(master, 1, lambda redis: redis.lpush("text", SECRET))
    assert SECRET not in str(caught.value)


def test_a_full_master_refuses_the_command_and_not_the_confirmation(master):
    master.config_set("maxmemory", 1)
    try:
        assert run_confirmed(master, 1, lambda redis: redis.get("a")) is None
        with pytest.raises(OutOfMemoryError):
            run_confirmed(master, 1, lambda redis: redis.set("a", 1))
    finally:
        master.config_set("maxmemory", 0)

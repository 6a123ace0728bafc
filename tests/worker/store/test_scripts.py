"""A script is sent by its digest, and its text to a server that lacks it."""

import pytest

from worker.store.atomic import WRITE_FIRST_KEY
from worker.store.scripts import Script

ATOMICALLY = Script("worker.store", "atomically")


@pytest.fixture
def calls(real_redis):
    """How often the server has run a command since it was asked last."""
    real_redis.script_flush()
    real_redis.config_resetstat()
    return lambda: {
        name: real_redis.info("commandstats").get(f"cmdstat_{name}", {"calls": 0})["calls"]
        for name in ("eval", "evalsha")
    }


def run(redis):
    return ATOMICALLY(redis, keys=[WRITE_FIRST_KEY, "a"], args=["1", 1, 0, "INCR"])


def test_the_text_is_sent_once_and_the_digest_from_then_on(real_redis, calls):
    assert [run(real_redis), run(real_redis), run(real_redis)] == [[1], [2], [3]]
    assert calls() == {"eval": 1, "evalsha": 3}


def test_a_server_that_has_lost_its_scripts_is_sent_the_text_again(real_redis, calls):
    run(real_redis)
    real_redis.script_flush()
    assert run(real_redis) == [2]
    assert calls()["eval"] == 2


def test_in_a_pipeline_the_answer_comes_with_the_others(real_redis, calls):
    with real_redis.pipeline(transaction=False) as pipe:
        run(pipe)
        assert pipe.get("a").execute() == [[1], "1"]

"""The age of each queue's oldest message, as those who read the queues note it."""

import pytest

from worker.broker.client import Backlog
from worker.state.queue_heads import HEADS, QueueHeads


@pytest.fixture
def heads(redis):
    return QueueHeads(redis)


def test_a_message_that_bears_no_time_is_as_old_as_it_has_been_seen(heads):
    assert heads.observe({"a": Backlog(2, "first")}, 100.0) == {"a": (0, 0)}
    assert heads.observe({"a": Backlog(5, "first")}, 130.0) == {"a": (30, 30)}
    assert heads.observe({"a": Backlog(4, "second")}, 140.0) == {"a": (0, 0)}


def test_a_message_that_bears_its_time_is_as_old_as_it_says(heads):
    assert heads.observe({"a": Backlog(1, "first", enqueued_at=70.0)}, 100.0) == {"a": (30, 0)}


def test_empty_queues_have_no_age_and_are_forgotten(heads, redis):
    heads.observe({"a": Backlog(1, "first")}, 100.0)

    assert heads.observe({"a": Backlog(0)}, 130.0) == {}
    assert redis.hlen(HEADS) == 0


def test_every_reader_sees_the_same_age(heads, redis):
    heads.observe({"a": Backlog(1, "first")}, 100.0)

    assert QueueHeads(redis).observe({"a": Backlog(1, "first")}, 160.0) == {"a": (60, 60)}


def test_a_corrupt_entry_is_replaced(heads, redis):
    redis.hset(HEADS, "a", "nonsense")

    assert heads.observe({"a": Backlog(1, "first")}, 100.0) == {"a": (0, 0)}

"""Calls in Celery's default queue, over a real Redis."""

import pytest
from celery import Celery

from worker.broker.client import may_call, queue_lengths
from worker.broker.redis.transport import register_redis_transport
from worker.broker.rerouting import reroute
from worker.queues import CHANGES_QUEUE, DEFAULT_QUEUE, FORWARD


@pytest.fixture
def app(real_redis, real_redis_url):
    register_redis_transport()
    return Celery("another-app", broker=real_redis_url, set_as_current=False)


def received(app, queue):
    """The calls in a queue, oldest first: their task, arguments and ID."""
    with app.connection() as connection:
        channel = connection.default_channel
        while (message := channel.basic_get(queue, no_ack=True)) is not None:
            yield message.headers["task"], message.payload[1], message.headers["id"]


def test_our_calls_are_moved_as_they_were_and_others_stay(app):
    app.send_task(FORWARD, kwargs={"changes": [1]}, task_id="first", ignore_result=True)
    app.send_task("other.task", kwargs={"a": 1}, task_id="second", ignore_result=True)
    app.send_task(FORWARD, kwargs={"changes": [2]}, task_id="third", compression="zlib", ignore_result=True)

    assert reroute(app, {FORWARD}) == (2, 1)

    assert list(received(app, CHANGES_QUEUE)) == [
        (FORWARD, {"changes": [1]}, "first"),
        (FORWARD, {"changes": [2]}, "third"),
    ]
    assert list(received(app, DEFAULT_QUEUE)) == [("other.task", {"a": 1}, "second")]


def test_what_is_no_call_stays(app, real_redis):
    real_redis.lpush(DEFAULT_QUEUE, "nonsense")

    assert reroute(app, {FORWARD}) == (0, 1)
    assert queue_lengths(app, [DEFAULT_QUEUE]) == {DEFAULT_QUEUE: 1}


def test_an_empty_queue_has_nothing_to_move(app):
    assert reroute(app, {FORWARD}) == (0, 0)


def test_calls_of_ours_among_those_of_other_applications_are_found(app):
    app.send_task("other.task", kwargs={"a": FORWARD}, ignore_result=True)
    assert not may_call(app, DEFAULT_QUEUE, {FORWARD})
    app.send_task(FORWARD, kwargs={"changes": [1]}, compression="zlib", ignore_result=True)
    assert may_call(app, DEFAULT_QUEUE, {FORWARD})

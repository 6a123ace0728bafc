"""Marks in the broker of what attempts have sent."""

import json

import pytest
from celery import Celery

from worker.broker.handovers import HANDED_OVER, MARK_HEADER, Handovers, needs_marks
from worker.broker.redis.transport import register_redis_transport

QUEUE = "firehose.main.us-east-1.travel"


@pytest.fixture
def app(real_redis, real_redis_url):
    register_redis_transport()
    return Celery("app", broker=real_redis_url, set_as_current=False)


def test_a_marked_attempt_is_lost_once_the_broker_has_lost_its_mark(app, real_redis):
    handovers = Handovers(app, keep_seconds=60, are_needed=True)

    assert handovers.mark("attempt:0")
    assert not handovers.is_lost("attempt:0")
    real_redis.flushall()
    assert handovers.is_lost("attempt:0")


def test_a_message_is_sent_and_its_attempt_marked_in_one_step(app, real_redis):
    handovers = Handovers(app, keep_seconds=60, are_needed=True)

    app.send_task("some.task", queue=QUEUE, headers=handovers.header("attempt:0"))

    assert not handovers.is_lost("attempt:0")
    assert 0 < real_redis.ttl(f"{HANDED_OVER}:attempt:0") <= 60
    (message,) = real_redis.lrange(QUEUE, 0, -1)
    assert MARK_HEADER not in json.loads(message)["headers"]


def test_where_broker_and_state_are_one_server_nothing_is_marked(app, real_redis):
    handovers = Handovers(app, keep_seconds=60, are_needed=False)

    assert not handovers.mark("attempt:0")
    assert handovers.header("attempt:0") == {}
    assert not handovers.is_lost("attempt:0")
    assert real_redis.keys("audience.handed-over:*") == []


@pytest.mark.parametrize(
    ("broker", "state", "expected"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/1", False),
        ("redis://:secret@localhost/0", "redis://localhost:6379/1", False),
        ("redis://broker:6379/0", "redis://state:6379/0", True),
        ("redis://localhost:6379/0", "redis://localhost:6380/0", True),
        ("rediss://one:6379/0", "rediss://one:6379/1", False),
        ("redis+socket:///run/a.sock", "unix:///run/a.sock", False),
        ("redis+socket:///run/a.sock", "unix:///run/b.sock", True),
        ("amqp://localhost//", "redis://localhost:6379/0", False),
        ("sentinel://one:26379/0", "sentinel://one:26379/1", True),
        ("redis://broker:6379/0", "redis://one:6379;redis://two:6379", True),
        ("redis://broker:6379/0", "sentinel://one:26379;sentinel://two:26379", True),
    ],
)
def test_marks_are_needed_where_the_broker_is_another_redis_than_the_state(broker, state, expected):
    assert needs_marks(broker, state) is expected

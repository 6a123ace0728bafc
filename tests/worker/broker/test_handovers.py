"""Marks in the broker of what attempts have sent."""

import pytest
from celery import Celery

from worker.broker.handovers import Handovers, needs_marks
from worker.broker.redis.transport import register_redis_transport


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


def test_where_broker_and_state_are_one_server_nothing_is_marked(app, real_redis):
    handovers = Handovers(app, keep_seconds=60, are_needed=False)

    assert not handovers.mark("attempt:0")
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

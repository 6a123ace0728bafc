"""A poll that gets no reply, and commands that time out, are a lost connection."""

import json
from select import select
from time import monotonic

import pytest
from kombu import Connection, Queue
from link import Link
from redis.exceptions import TimeoutError
from waiting import eventually

from worker.broker.redis.poller import is_overdue
from worker.broker.redis.transport import Transport
from worker.queues import CHANGES_QUEUE
from worker.store.connections import SOCKET_TIMEOUT_SECONDS

QUEUE = Queue("queue", routing_key="queue")
CHANGES = Queue(CHANGES_QUEUE, routing_key=CHANGES_QUEUE)
NEVER_WAIT = {"socket_timeout": 0.2, "socket_connect_timeout": 0.2}
LATER = SOCKET_TIMEOUT_SECONDS + Transport.brpop_timeout


@pytest.fixture
def link(real_redis_url, real_redis):
    with Link(real_redis_url) as link:
        yield link


@pytest.fixture
def channel(link, clock):
    with Connection(link.url, transport=Transport, transport_options=NEVER_WAIT) as connection:
        channel = connection.channel()
        channel.clock = channel.monotonic = clock
        consumer = connection.Consumer([QUEUE, CHANGES], channel=channel, on_message=lambda _: None)
        consumer.consume()
        yield channel


def poll(channel):
    """Send a poll whose reply is outstanding."""
    channel.connection.cycle._register_BRPOP(channel)


def bodies(real_redis):
    """Of the messages of changes that wait, the last one first."""
    return [json.loads(text)["body"] for text in real_redis.lrange(CHANGES_QUEUE, 0, -1)]


def test_a_reply_that_does_not_come_is_overdue(channel, link):
    link.drop()
    poll(channel)
    assert not is_overdue(channel, channel.monotonic())
    assert is_overdue(channel, channel.monotonic() + LATER)


def test_a_reply_that_waits_to_be_read_is_not_overdue(channel):
    poll(channel)
    # Reading would take the reply from the socket.
    select([channel._in_poll._sock], [], [], 5)
    assert not is_overdue(channel, channel.monotonic() + LATER)


def test_a_channel_without_a_poll_is_not_overdue(channel):
    assert not is_overdue(channel, channel.monotonic() + LATER)


def test_an_overdue_reply_is_a_connection_error(channel, link, clock):
    link.drop()
    poll(channel)
    channel.connection.cycle.maybe_check_brpop_health()
    clock.advance(LATER)
    with pytest.raises(channel.connection_errors):
        channel.connection.cycle.maybe_check_brpop_health()


def test_a_timeout_while_requeueing_is_a_connection_error(channel, link):
    link.drop()
    with pytest.raises(TimeoutError):
        channel.connection.cycle.maybe_restore_messages()


def test_what_a_poll_reserved_whose_answer_is_lost_is_requeued_in_its_order(channel, link, real_redis):
    for number in range(9):
        channel.connection.client.Producer(channel).publish(number, CHANGES_QUEUE)
    waiting = bodies(real_redis)
    link.drop_answers()
    poll(channel)
    eventually(lambda: real_redis.hlen("unacked") == 9)
    link.heal()
    with Connection(link.url, transport=Transport) as connection:
        assert connection.channel().qos.requeue_reserved_at(channel.unanswered_poll) == 9
    assert bodies(real_redis) == waiting
    assert not real_redis.exists("unacked", "unacked_index")


def test_what_was_reserved_by_a_poll_that_was_answered_stays_reserved(channel, real_redis, clock):
    channel.connection.client.Producer(channel).publish(1, CHANGES_QUEUE)
    poll(channel)
    channel._brpop_read()
    assert channel.unanswered_poll is None
    clock.advance(1)
    assert channel.qos.requeue_reserved_at(f"{channel.clock():.6f}") == 0
    assert real_redis.hlen("unacked") == 1


def test_a_lost_channel_is_closed_without_the_server(channel, link):
    poll(channel)
    link.drop()
    channel.auto_delete_queues.add("replies")
    channel.connection.cycle.mark_lost()
    before = monotonic()
    channel.close()
    assert monotonic() - before < NEVER_WAIT["socket_timeout"]
    assert channel.closed


def test_a_channel_whose_server_does_not_answer_is_closed_all_the_same(channel, link):
    poll(channel)
    link.drop()
    channel.close()
    assert channel.closed

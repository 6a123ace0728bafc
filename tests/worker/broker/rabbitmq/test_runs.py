"""Runs over RabbitMQ, by the frames that it sends. `tests/tasks/test_runs.py` has a real server."""

import struct
from random import Random

import amqp
import pytest

from worker.broker.rabbitmq.queues import RENEWED_AFTER_DELIVERIES
from worker.broker.rabbitmq.reservations import FRAMES
from worker.broker.rabbitmq.runs import AHEAD_BYTES, MAX_HELD_BYTES, RunMessage, Runs
from worker.broker.runs import RUN_BYTES, RUN_MESSAGE_BYTES

CHANNEL = 7
MOST = 100
IN_POOL = 4


class Channel:
    """RabbitMQ's side: what it has sent, and how that ended."""

    def __init__(self):
        self.channel_id = CHANNEL
        self.connection = self
        self.prefetch = None
        self.consumer = None
        self.tag = 0
        self.unacknowledged = set()
        self.acknowledged = []
        self.returned = []
        self.acks = 0

    def begin(self, tag, prefetch):
        self.consumer, self.prefetch = tag, prefetch

    def stop(self, tag):
        assert tag == self.consumer
        self.consumer = self.prefetch = None

    def handle_delivery(self, tag, callback, frames):
        callback(tuple(content for _, content in frames))

    def acknowledge(self, tag, multiple=False):
        self.acks += 1
        tags = {each for each in self.unacknowledged if each <= tag} if multiple else {tag}
        assert tags <= self.unacknowledged
        self.unacknowledged -= tags
        self.acknowledged += sorted(tags)

    def requeue(self, tag):
        self.unacknowledged.remove(tag)
        self.returned.append(tag)

    def frames(self, body, headers=None):
        """The frames of the next delivery."""
        self.tag += 1
        self.unacknowledged.add(self.tag)
        consumer = self.consumer.encode()
        method = struct.pack(">HHB", 60, 60, len(consumer)) + consumer
        yield 1, CHANNEL, method + struct.pack(">QBBB", self.tag, 0, 0, 0)
        properties = amqp.Message(application_headers=headers)._serialize_properties()
        yield 2, CHANNEL, struct.pack(">HHQ", 60, 0, len(body)) + properties
        half = len(body) // 2
        yield from ((3, CHANNEL, part) for part in (body[:half], body[half:]) if part)


class Story:
    """Runs whose messages the test's own pool has."""

    def __init__(self):
        self.channel = Channel()
        self.runs = Runs(self.channel, most=MOST, in_pool=IN_POOL)
        self.pool = []
        self.runs.consume("consumer", self.pool.append)

    def arrive(self, *bodies):
        """Messages arrive, before the worker looks at any of them."""
        for body in bodies:
            ends = [self.runs.take(frame) for frame in self.channel.frames(body)]
            assert ends == [False] * (len(ends) - 1) + [True]

    def deliver(self):
        """What the pool gets now: the bodies of each run; of what is run alone, its body alone."""
        first = len(self.pool)
        self.runs.deliver()
        return [
            [body for _, body in message.properties[FRAMES]]
            if isinstance(message, RunMessage)
            else message[2]
            for message in self.pool[first:]
        ]


@pytest.fixture
def story():
    return Story()


def test_what_has_arrived_is_one_run_and_is_acknowledged_at_once(story):
    story.arrive(b"one", b"two", b"", b"three")
    assert story.deliver() == [[b"one", b"two", b"", b"three"]]
    story.pool[0].ack()
    assert (story.channel.acknowledged, story.channel.acks) == ([1, 2, 3, 4], 1)
    assert story.deliver() == []


def test_frames_of_other_channels_and_other_methods_are_left_to_py_amqp(story):
    assert story.runs.take((1, CHANNEL + 1, struct.pack(">HH", 60, 60))) is None
    assert story.runs.take((1, CHANNEL, struct.pack(">HH", 60, 21))) is None
    assert story.runs.take((2, CHANNEL, b"")) is None
    assert story.runs.take((8, 0, b"")) is None


def test_what_arrives_while_the_pool_is_full_is_one_run_afterwards(story):
    for number in range(IN_POOL):
        story.arrive(b"%d" % number)
        assert story.deliver() == [[b"%d" % number]]
    story.arrive(b"a")
    story.arrive(b"b")
    assert story.deliver() == []
    story.pool[0].ack()
    assert story.deliver() == [[b"a", b"b"]]


def test_a_run_that_ends_before_an_older_one_ends_none_of_its_messages(story):
    story.arrive(b"a", b"b")
    story.deliver()
    story.arrive(b"c", b"d")
    story.deliver()
    older, newer = story.pool
    newer.ack()
    assert story.channel.acknowledged == [3, 4]
    older.ack()
    assert story.channel.acknowledged == [3, 4, 1, 2]


def test_a_run_is_bounded_in_messages_and_bytes(story):
    story.arrive(*[b"x"] * (MOST + 1))
    assert list(map(len, story.deliver())) == [MOST, 1]
    story.arrive(*[b"x" * (RUN_BYTES // 5)] * 7)
    assert list(map(len, story.deliver())) == [5, 2]


def test_a_message_that_is_too_large_for_a_run_is_run_alone(story):
    large = b"x" * (RUN_MESSAGE_BYTES + 1)
    story.arrive(b"a", large, b"b")
    assert story.deliver() == [[b"a"], large, [b"b"]]


def test_messages_that_do_not_end_with_their_run_come_next(story):
    story.arrive(b"a", b"b", b"c", b"d")
    story.deliver()
    (run,) = story.pool
    run.part(left=["4"], alone=["2", "unknown"])
    run.ack()
    assert story.channel.acknowledged == [1, 3]
    story.arrive(b"e")
    assert story.deliver() == [b"b", [b"d", b"e"]]
    assert story.channel.unacknowledged == {2, 4, 5}


def test_a_run_that_is_rejected_is_returned_and_one_that_is_parted_is_not(story):
    story.arrive(b"a", b"b")
    story.deliver()
    story.pool[0].reject(requeue=True)
    assert story.channel.returned == [1, 2]
    story.arrive(b"c", b"d")
    story.deliver()
    story.pool[1].part_all()
    story.pool[1].reject(requeue=True)
    assert story.channel.returned == [1, 2]
    assert story.deliver() == [b"c", b"d"]


def test_of_a_run_that_is_returned_a_message_that_came_back_often_is_run_alone(story):
    """A run may be returned before its process has read it. RabbitMQ drops what comes back too often."""
    for count in (None, RENEWED_AFTER_DELIVERIES - 1, RENEWED_AFTER_DELIVERIES):
        headers = None if count is None else {"x-delivery-count": count}
        for frame in story.channel.frames(b"%d" % (count or 0), headers):
            story.runs.take(frame)
    story.deliver()
    story.pool[0].reject(requeue=True)
    assert story.channel.returned == [1, 2]
    assert story.deliver() == [b"%d" % RENEWED_AFTER_DELIVERIES]


def test_many_messages_that_are_run_alone_hold_up_no_run(story):
    """Each may wait for what RabbitMQ refuses, and comes back."""
    large = b"x" * (RUN_MESSAGE_BYTES + 1)
    story.runs.most_in_pool = 1
    story.arrive(b"0", b"1", b"2", b"3")
    story.deliver()
    story.arrive(b"a", large)
    story.pool[0].part_all()
    story.pool[0].ack()
    delivered = []
    for tag in (1, 5, 2, 6, 3, 4):
        delivered += story.deliver()
        if isinstance(story.pool[-1], RunMessage):
            story.pool[-1].ack()
        else:
            story.runs.forget(tag)
    assert delivered == [b"0", [b"a"], b"1", large, b"2", b"3"]


def test_a_run_that_is_rejected_for_good_is_not_dropped(story):
    story.arrive(b"a", b"b")
    story.deliver()
    story.pool[0].reject()
    assert story.deliver() == [b"a", b"b"]


def test_what_no_process_has_begun_is_returned_when_the_worker_stops(story):
    story.runs.most_in_pool = 1
    story.arrive(b"a")
    story.deliver()
    story.arrive(b"b", b"c")
    story.runs.cancel()
    assert story.channel.returned == [2, 3]
    assert story.channel.consumer is None
    story.pool[0].part(alone=["1"])
    story.pool[0].ack()
    assert story.channel.returned == [2, 3, 1]
    assert not story.channel.unacknowledged


def test_more_is_sent_ahead_once_messages_turn_out_to_be_small_and_less_where_they_are_large(story):
    assert story.channel.prefetch == IN_POOL
    story.arrive(*[b"x" * 100] * IN_POOL)
    story.deliver()
    assert story.channel.prefetch == MOST
    story.pool[0].ack()
    large = AHEAD_BYTES // MOST * 3
    for _ in range(MOST // 5):
        story.arrive(*[b"x" * large] * 5)
        for run in story.pool[len(story.pool) - len(story.deliver()) :]:
            run.ack()
    assert MOST // 4 <= story.channel.prefetch <= MOST // 3


def test_messages_beyond_the_bytes_that_a_worker_holds_are_returned_until_there_is_room(story):
    size = MAX_HELD_BYTES // 8
    story.arrive(*[b"x" * size] * 10)
    story.deliver()
    assert len(story.channel.returned) == 3
    assert story.channel.consumer is None, "nothing is sent while so much is held"
    while story.pool and story.channel.consumer is None:
        story.runs.forget(story.pool and min(story.channel.unacknowledged))
        story.channel.unacknowledged.remove(min(story.channel.unacknowledged))
        story.deliver()
    assert story.channel.prefetch == AHEAD_BYTES // (size + 14)


def test_a_message_that_is_larger_than_all_that_may_be_held_is_run(story):
    huge = b"x" * (MAX_HELD_BYTES + 1)
    story.arrive(huge)
    assert story.deliver() == [huge]


def test_a_large_message_that_is_sent_again_as_there_is_room_is_not_returned_each_time(story):
    """RabbitMQ drops a message that comes back too often."""
    story.arrive(*[b"x" * (AHEAD_BYTES // 5)] * 4)
    story.deliver()
    huge = b"x" * (MAX_HELD_BYTES - AHEAD_BYTES // 2)
    story.arrive(huge, huge)
    story.deliver()
    assert story.channel.returned == [6]
    assert story.channel.consumer is None


@pytest.mark.parametrize("seed", range(6))
def test_what_has_not_ended_is_never_acknowledged(story, seed):
    """In any order of events, among them messages that are returned for want of room."""
    random, sizes = Random(seed), [3, RUN_BYTES // 3, RUN_MESSAGE_BYTES + 1, MAX_HELD_BYTES // 3]
    ended = set()
    for _ in range(100):
        match random.randrange(4):
            case 0 if story.channel.consumer:
                story.arrive(*(b"x" * random.choice(sizes) for _ in range(random.randrange(4))))
            case 1:
                story.deliver()
            case 2 if story.pool:
                message = story.pool.pop(random.randrange(len(story.pool)))
                if isinstance(message, RunMessage):
                    tags = list(message.deliveries)
                    if random.random() < 0.3:
                        message.part(alone=tags[:1], left=tags[2:])
                    ended.update(map(int, message.deliveries))
                    message.ack()
                else:
                    tag = struct.unpack_from(">Q", message[0], 5 + message[0][4])[0]
                    ended.add(tag)
                    story.channel.acknowledge(tag)
                    story.runs.forget(tag)
        assert set(story.channel.acknowledged) <= ended
    assert set(story.channel.acknowledged) == ended

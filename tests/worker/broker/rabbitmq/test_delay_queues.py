"""Delayed delivery on RabbitMQ. `tests/end_to_end/test_rabbitmq.py` shows it on a real server."""

from contextlib import nullcontext
from types import SimpleNamespace

import amqp
import pytest
from clock import NOON
from kombu.compression import compress
from kombu.transport.pyamqp import Message

from worker.broker.rabbitmq.channel import Channel
from worker.broker.rabbitmq.delay_queues import (
    MAX_DELAY_SECONDS,
    PAUSE_AFTER_FAILURE_SECONDS,
    PUBLISH_ATTEMPTS,
    DelayQueues,
    copy_message,
    delay_seconds,
)
from worker.broker.rabbitmq.transport import Connection
from worker.queues import delay_queue, is_stream_queue

COPY = amqp.Message(b"body")
QUEUE = "firehose.main.us-east-1.travel"


class Broker:
    """Stores what is published over its connections; raises each of its faults first."""

    def __init__(self):
        self.published = []
        self.declared = []
        self.faults = []
        self.connections = 0
        self.open = 0

    @property
    def transport(self):
        return self

    def clone(self, heartbeat):
        assert heartbeat == 0
        return self

    def establish_connection(self):
        self.connections += 1
        self.open += 1
        return self

    def channel(self):
        return SimpleNamespace(
            connection=self,
            exchange_declare=lambda *_, **__: None,
            queue_declare=lambda name, **_: self.declared.append(name),
            queue_bind=lambda *_: None,
            basic_publish_confirm=self.publish,
        )

    def having_timeout(self, seconds):
        return nullcontext()

    def publish(self, message, exchange, routing_key, mandatory):
        assert mandatory
        if self.faults:
            raise self.faults.pop()
        self.published.append((message, exchange, routing_key))

    def collect(self):
        self.open -= 1


@pytest.fixture
def broker():
    return Broker()


@pytest.fixture
def delay_queues(broker, clock):
    return DelayQueues(broker, monotonic=clock)


def received(body, **properties):
    """A message as it comes off a channel."""
    message = amqp.Message(body, **properties)
    message.delivery_info = {"delivery_tag": 1, "exchange": "", "routing_key": QUEUE}
    return Message(message, channel=None)


@pytest.mark.parametrize(
    ("left", "seconds"),
    [
        (-5, 1),
        (0, 1),
        (0.011, 1),
        (1, 1),
        (1.01, 2),
        (2.9, 2),
        (3.01, 4),
        (4, 4),
        (600, 512),
        (MAX_DELAY_SECONDS, MAX_DELAY_SECONDS),
        (10**9, MAX_DELAY_SECONDS),
    ],
)
def test_a_delay_is_the_longest_that_ends_less_than_a_second_late(left, seconds):
    assert delay_seconds(left) == seconds


@pytest.mark.parametrize("left", [0.02, 1.5, 7.3, 100.1, 599.999, 5000])
def test_a_long_delay_is_a_dozen_short_ones_at_most_and_ends_within_a_second_of_its_time(left):
    delays = 0
    while left > 0:
        left -= delay_seconds(left)
        delays += 1
    assert left > -1
    assert delays <= 12


def test_a_delay_queue_is_not_a_streams_queue():
    assert not is_stream_queue(delay_queue(MAX_DELAY_SECONDS))


def test_a_copy_has_the_body_and_properties_its_sender_published_and_no_header_of_rabbitmq():
    body, compression = compress(b'["secretive"]', "zstd")
    headers = {"id": "an-id", "eta": "2030-01-01T00:00:00+00:00", "compression": compression, "x-own": 1}
    properties = {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "correlation_id": "an-id",
        "delivery_mode": 2,
        "priority": 3,
        "reply_to": "somebody",
    }
    added = {
        "x-death": [{"count": 1}],
        "x-first-death-queue": "audience.waiting.1",
        "x-delivery-count": 2,
    }
    copy = copy_message(received(body, application_headers=headers | added, **properties))
    assert copy.properties == properties | {"application_headers": headers}
    assert copy.body == body


def test_a_copy_of_an_uncompressed_message_is_not_compressed():
    assert copy_message(received(b"[]", content_type="application/json")).body == b"[]"


def test_delay_queues_are_declared_once_a_connection(delay_queues, broker):
    assert all(delay_queues.publish(COPY, QUEUE, seconds) for seconds in (1, 2, 1))
    assert broker.published == [(COPY, delay_queue(seconds), QUEUE) for seconds in (1, 2, 1)]
    assert broker.declared == [delay_queue(1), delay_queue(2)]
    assert broker.connections == 1


def test_a_closed_connection_is_replaced(delay_queues, broker):
    assert delay_queues.publish(COPY, QUEUE, 1)
    broker.faults = [ConnectionResetError()]
    assert delay_queues.publish(COPY, QUEUE, 1)
    assert (broker.connections, broker.open) == (2, 1)
    assert broker.declared == [delay_queue(1)] * 2


@pytest.mark.parametrize(
    "fault", [TimeoutError(), amqp.exceptions.MessageNacked(), amqp.NotFound(), OSError()]
)
def test_after_failed_attempts_nothing_is_published_during_the_cooldown(delay_queues, broker, clock, fault):
    broker.faults = [fault] * PUBLISH_ATTEMPTS
    assert not delay_queues.publish(COPY, QUEUE, 1)
    assert (broker.connections, broker.open) == (PUBLISH_ATTEMPTS, 0)
    assert not delay_queues.publish(COPY, QUEUE, 1)
    assert broker.connections == PUBLISH_ATTEMPTS
    clock.advance(PAUSE_AFTER_FAILURE_SECONDS)
    assert delay_queues.publish(COPY, QUEUE, 1)


class ReceivedMessage:
    """A message that a channel delivered, and whether it is acknowledged."""

    def __init__(self, exchange=""):
        self.delivery_info = {"exchange": exchange, "routing_key": QUEUE}
        self.headers, self.properties, self.body = {}, {}, b""
        self.acknowledged = False

    def ack(self):
        self.acknowledged = True


@pytest.fixture
def channel(delay_queues, clock):
    channel = Channel.__new__(Channel)
    channel.clock = clock
    channel.connection = SimpleNamespace(delay_queues=delay_queues)
    return channel


def test_a_message_is_acknowledged_once_its_copy_is_confirmed(channel, broker):
    message = ReceivedMessage()
    assert channel.delay(message, until=NOON + 1)
    assert message.acknowledged
    assert len(broker.published) == 1


def test_a_message_whose_copy_is_not_confirmed_stays_unacknowledged(channel, broker):
    broker.faults = [TimeoutError()] * PUBLISH_ATTEMPTS
    message = ReceivedMessage()
    assert not channel.delay(message, until=NOON + 1)
    assert not message.acknowledged


def test_a_message_from_an_exchange_is_not_delayed_in_the_broker(channel, broker):
    message = ReceivedMessage(exchange="another")
    assert not channel.delay(message, until=NOON + 1)
    assert not (message.acknowledged or broker.published)


def test_delaying_over_a_closed_channel_raises_a_connection_error(channel):
    channel.connection = None
    with pytest.raises(Connection.connection_errors):
        channel.delay(ReceivedMessage(), until=NOON + 1)


def test_a_closed_connection_closes_that_of_its_delay_queues(delay_queues, broker):
    assert delay_queues.publish(COPY, QUEUE, 1)
    connection = Connection()
    connection.delay_queues = delay_queues
    connection.collect()
    assert broker.open == 0

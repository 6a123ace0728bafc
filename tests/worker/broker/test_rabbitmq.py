"""How a message is made to wait in RabbitMQ. That it does is told in `tests/end_to_end/test_rabbitmq.py`."""

import time
from contextlib import nullcontext
from types import SimpleNamespace

import amqp
import pytest
from kombu.compression import compress
from kombu.transport import resolve_transport
from kombu.transport.pyamqp import Message

from worker.broker.rabbitmq import (
    ATTEMPTS,
    LONGEST,
    REST,
    Channel,
    Connection,
    DelayQueues,
    copy_of,
    register_rabbitmq_transport,
    seconds_to_wait,
)
from worker.queues import delay_queue, is_stream_queue

COPY = amqp.Message(b"body")
QUEUE = "firehose.main.us-east-1.travel"


class Broker:
    """Takes what is published over the connections to it, until the next of its faults."""

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
def room(broker, clock):
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
        (LONGEST, LONGEST),
        (10**9, LONGEST),
    ],
)
def test_a_wait_is_the_longest_that_is_less_than_a_second_too_long(left, seconds):
    assert seconds_to_wait(left) == seconds


@pytest.mark.parametrize("left", [0.02, 1.5, 7.3, 100.1, 599.999, 5000])
def test_waits_end_within_a_second_of_the_time(left):
    waits = 0
    while left > 0:
        left -= seconds_to_wait(left)
        waits += 1
    assert left > -1
    assert waits <= 12


def test_a_waiting_queue_is_no_streams():
    assert not is_stream_queue(delay_queue(LONGEST))


def test_a_copy_is_what_its_sender_has_sent():
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
    notes = {"x-death": [{"count": 1}], "x-first-death-queue": "audience.waiting.1", "x-delivery-count": 2}
    copy = copy_of(received(body, application_headers=headers | notes, **properties))
    assert copy.properties == properties | {"application_headers": headers}
    assert copy.body == body


def test_a_message_that_is_not_compressed_stays_so():
    assert copy_of(received(b"[]", content_type="application/json")).body == b"[]"


def test_waiting_queues_are_declared_once_a_connection(room, broker):
    assert all(room.takes(COPY, QUEUE, seconds) for seconds in (1, 2, 1))
    assert broker.published == [(COPY, delay_queue(seconds), QUEUE) for seconds in (1, 2, 1)]
    assert broker.declared == [delay_queue(1), delay_queue(2)]
    assert broker.connections == 1


def test_a_connection_that_has_gone_is_replaced(room, broker):
    assert room.takes(COPY, QUEUE, 1)
    broker.faults = [ConnectionResetError()]
    assert room.takes(COPY, QUEUE, 1)
    assert (broker.connections, broker.open) == (2, 1)
    assert broker.declared == [delay_queue(1)] * 2


@pytest.mark.parametrize(
    "fault", [TimeoutError(), amqp.exceptions.MessageNacked(), amqp.NotFound(), OSError()]
)
def test_a_broker_that_refuses_is_left_alone_for_a_while(room, broker, clock, fault):
    broker.faults = [fault] * ATTEMPTS
    assert not room.takes(COPY, QUEUE, 1)
    assert (broker.connections, broker.open) == (ATTEMPTS, 0)
    assert not room.takes(COPY, QUEUE, 1)
    assert broker.connections == ATTEMPTS
    clock.advance(REST)
    assert room.takes(COPY, QUEUE, 1)


class TakenMessage:
    """A message off a channel, and whether it is acknowledged."""

    def __init__(self, exchange=""):
        self.delivery_info = {"exchange": exchange, "routing_key": QUEUE}
        self.headers, self.properties, self.body = {}, {}, b""
        self.acknowledged = False

    def ack(self):
        self.acknowledged = True


@pytest.fixture
def channel(room):
    channel = Channel.__new__(Channel)
    channel.connection = SimpleNamespace(delay_queues=room)
    return channel


def test_what_waits_in_the_broker_is_acknowledged(channel, broker):
    message = TakenMessage()
    assert channel.delay(message, until=time.time() + 1)
    assert message.acknowledged
    assert len(broker.published) == 1


def test_what_the_broker_has_not_confirmed_is_not(channel, broker):
    broker.faults = [TimeoutError()] * ATTEMPTS
    message = TakenMessage()
    assert not channel.delay(message, until=time.time() + 1)
    assert not message.acknowledged


def test_a_message_whose_queue_is_not_known_stays_in_the_worker(channel, broker):
    message = TakenMessage(exchange="somebodys")
    assert not channel.delay(message, until=time.time() + 1)
    assert not (message.acknowledged or broker.published)


def test_a_channel_that_is_closed_says_so(channel):
    channel.connection = None
    with pytest.raises(Connection.connection_errors):
        channel.delay(TakenMessage(), until=time.time() + 1)


def test_a_connection_takes_its_waiting_room_with_it(room, broker):
    assert room.takes(COPY, QUEUE, 1)
    connection = Connection()
    connection.delay_queues = room
    connection.collect()
    assert broker.open == 0


@pytest.mark.parametrize("scheme", ["amqp", "amqps", "pyamqp"])
def test_it_is_the_transport_for_rabbitmq(scheme):
    register_rabbitmq_transport()
    assert resolve_transport(scheme).Connection is Connection

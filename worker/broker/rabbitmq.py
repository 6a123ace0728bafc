"""RabbitMQ as a broker in which a message waits for its time, and that no call is lost on the way to.

Celery keeps a message whose time has not come in the worker, unacknowledged, and takes
one more in its place. Here it goes into a waiting queue, and is acknowledged when RabbitMQ
has confirmed that it has the copy: at each moment it is in one of the two, or in both.

There is one waiting queue for each power of two in seconds, and none for each stream. A message
is sent to it through a fanout exchange, with the name of the queue it came from as its routing
key; when its seconds are over, RabbitMQ sends it on to just that queue. If that was too early,
it waits again for what is left.

A waiting queue is a quorum queue, because only those hand on a message at least once: a
classic queue forgets it before the queue that it goes to has it.
"""

import logging
import math
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

import amqp
from kombu import Connection as Client
from kombu.compression import compress
from kombu.message import Message
from kombu.transport import TRANSPORT_ALIASES, pyamqp

from worker.queues import delay_queue

LONGEST = 4096
"""Seconds for which a message waits at a time."""
TIMEOUT = 5.0
"""Seconds until RabbitMQ must have answered. The worker does nothing else meanwhile."""
ATTEMPTS = 2
"""The first one may meet a connection that RabbitMQ has closed since it was last used."""
REST = 60.0
"""Seconds for which RabbitMQ is not asked again after both have failed: it may be short of memory, and
takes nothing then but gives away what it has."""
NOTES = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count")
"""How the headers begin that RabbitMQ adds to a message; of a new message they would not be true."""
NO_ROUTE = 312
"""RabbitMQ's reply code for a message that reaches no queue."""

logger = logging.getLogger(__name__)


def seconds_to_wait(left: float) -> int:
    """The longest wait that is over when the time has come, or less than a second later."""
    whole = max(1, math.ceil(left))
    return min(LONGEST, 1 << (whole.bit_length() - 1))


def copy_of(message: Message) -> amqp.Message:
    """The message as its sender has sent it."""
    headers = {name: value for name, value in message.headers.items() if not name.startswith(NOTES)}
    compression = headers.get("compression")
    body = compress(message.body, compression)[0] if compression else message.body
    return amqp.Message(body, **{**message.properties, "application_headers": headers})


class DelayQueues:
    """The waiting queues, over a connection of its own.

    An answer is waited for. Over the consumer's connection, messages could come first, each of
    which might be to wait, too.
    """

    def __init__(self, client: Client, monotonic: Callable[[], float] = time.monotonic) -> None:
        # Nobody would send the heartbeats between two messages.
        self._client = client.clone(heartbeat=0)
        self._monotonic = monotonic
        self._channel: Any = None
        self._declared: set[int] = set()
        self._rests_until = -math.inf

    def takes(self, copy: amqp.Message, queue: str, seconds: int) -> bool:
        """Whether the message is safe here, from where it goes to `queue` after so many seconds.

        If not it may be here all the same, and RabbitMQ is left alone for a while.
        """
        if self._monotonic() < self._rests_until:
            return False
        for _ in range(ATTEMPTS):
            try:
                self._publish(copy, queue, seconds)
            except Exception as error:
                # Whatever it is, the worker still has the message. An answer that is late must find nobody:
                # it would be taken for that to the next message.
                self.leave()
                failure = type(error).__name__
            else:
                return True
        logger.warning("%s: what is to wait waits in the worker for the next %d s", failure, REST)
        self._rests_until = self._monotonic() + REST
        return False

    def leave(self) -> None:
        """Let go of the connection. The next message opens another one."""
        channel, self._channel = self._channel, None
        self._declared.clear()
        if channel is not None and channel.connection is not None:
            channel.connection.collect()

    def _publish(self, copy: amqp.Message, queue: str, seconds: int) -> None:
        if self._channel is None:
            self._channel = self._client.transport.establish_connection().channel()
        with self._channel.connection.transport.having_timeout(TIMEOUT):
            if seconds not in self._declared:
                self._declare(seconds)
            # Mandatory: where somebody has deleted the waiting queue, this fails.
            self._channel.basic_publish_confirm(copy, delay_queue(seconds), queue, mandatory=True)

    def _declare(self, seconds: int) -> None:
        name = delay_queue(seconds)
        self._channel.exchange_declare(name, "fanout", durable=True, auto_delete=False)
        arguments = {
            "x-queue-type": "quorum",
            "x-message-ttl": seconds * 1000,
            "x-dead-letter-exchange": "",
            "x-dead-letter-strategy": "at-least-once",
            # RabbitMQ demands it for that. Nothing limits the queue's length.
            "x-overflow": "reject-publish",
        }
        self._channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
        self._channel.queue_bind(name, name)
        self._declared.add(seconds)


class Channel(pyamqp.Channel):  # type: ignore[misc]
    """Lets messages wait in the broker, and loses none on its way there."""

    def basic_publish_confirm(
        self, message: amqp.Message, *args: Any, mandatory: bool = False, **kwargs: Any
    ) -> Any:
        """Send a message. Raises `RecoverableConnectionError` where a task's call would reach no queue.

        RabbitMQ confirms such a message, too, and drops it. Somebody has deleted the queue since it was
        declared, which is done once a connection; so kombu connects again, declares it and sends again.
        """
        is_call = "task" in (message.headers or {})
        try:
            return super().basic_publish_confirm(message, *args, mandatory=mandatory or is_call, **kwargs)
        except amqp.ChannelError as error:
            if error.reply_code != NO_ROUTE:
                raise
            raise amqp.RecoverableConnectionError("no queue takes the message") from None

    def delay(self, message: Message, until: float) -> bool:
        """Whether a message of this channel now waits in the broker until a time (Unix seconds).

        If not, it is unacknowledged as before.
        """
        if message.delivery_info["exchange"]:
            # Its routing key need not be the name of the queue that it came from.
            return False
        if self.connection is None:
            raise amqp.RecoverableConnectionError("the channel's connection is closed")
        queue = message.delivery_info["routing_key"]
        room = self.connection.delay_queues
        if not room.takes(copy_of(message), queue, seconds_to_wait(until - time.time())):
            return False
        message.ack()
        return True


class Connection(pyamqp.Connection):  # type: ignore[misc]
    """A connection with these channels."""

    Channel = Channel

    @cached_property
    def delay_queues(self) -> DelayQueues:
        """The waiting queues of the same virtual host."""
        return DelayQueues(self.client)

    def collect(self) -> None:
        super().collect()
        if "delay_queues" in self.__dict__:
            self.delay_queues.leave()


class Transport(pyamqp.Transport):  # type: ignore[misc]
    """kombu's transport for RabbitMQ, with these connections."""

    Connection = Connection


class SSLTransport(pyamqp.SSLTransport):  # type: ignore[misc]
    """The same over TLS."""

    Connection = Connection


def register_rabbitmq_transport() -> None:
    """Make it this process's transport for `amqp://`, `pyamqp://` and `amqps://`."""
    for scheme, transport in (("amqp", Transport), ("pyamqp", Transport), ("amqps", SSLTransport)):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:{transport.__name__}"

"""Delay queues: RabbitMQ holds a message until its time comes.

Celery keeps a message whose time has not come in the worker, unacknowledged, and fetches one more in its
place. Here the worker publishes a copy into a delay queue and acknowledges the message once RabbitMQ has
confirmed the copy: at each moment the message is in one of the two queues, or in both.

There is a delay queue for each power of two in seconds, whatever the number of streams. A message reaches it
through a fanout exchange, with the name of its own queue as the routing key; when its seconds are over,
RabbitMQ dead-letters it to just that queue. If its time has not come yet, it is delayed again.

Delay queues are quorum queues, because only those dead-letter at least once: a classic queue removes a
message before the next queue has it.
"""

import logging
import math
import time
from collections.abc import Callable
from typing import Any

import amqp
from kombu import Connection as Client
from kombu.compression import compress
from kombu.message import Message

from worker.queues import delay_queue

MAX_DELAY_SECONDS = 4096
"""The longest of one delay queue."""
ANSWER_TIMEOUT_SECONDS = 5.0
"""Until RabbitMQ must have confirmed a copy. The worker's main process does nothing else meanwhile."""
PUBLISH_ATTEMPTS = 2
"""The first may meet a connection that RabbitMQ has closed since it was last used."""
PAUSE_AFTER_FAILURE_SECONDS = 60.0
"""Without another copy, after all attempts have failed: RabbitMQ may be short of memory, and then confirms
nothing but goes on delivering."""
BROKER_HEADERS = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count")
"""Prefixes of the headers that RabbitMQ adds to a message; they would be wrong in a copy."""

logger = logging.getLogger(__name__)


def delay_seconds(remaining: float) -> int:
    """The seconds of the longest delay queue whose delay ends within a second after the time has come."""
    whole = max(1, math.ceil(remaining))
    return min(MAX_DELAY_SECONDS, 1 << (whole.bit_length() - 1))


def copy_message(message: Message) -> amqp.Message:
    """The message as its sender published it."""
    headers = {name: value for name, value in message.headers.items() if not name.startswith(BROKER_HEADERS)}
    compression = headers.get("compression")
    body = compress(message.body, compression)[0] if compression else message.body
    return amqp.Message(body, **{**message.properties, "application_headers": headers})


class DelayQueues:
    """The delay queues, over a connection of its own.

    Publishing waits for the confirmation. On the consumer's connection, messages could arrive before it,
    and each of those might have to be delayed, too.
    """

    def __init__(self, client: Client, monotonic: Callable[[], float] = time.monotonic) -> None:
        # Nothing would send heartbeats between two messages.
        self._client = client.clone(heartbeat=0)
        self._monotonic = monotonic
        self._channel: Any = None
        self._declared: set[int] = set()
        self._cooldown_until = -math.inf

    def publish(self, copy: amqp.Message, queue: str, seconds: int) -> bool:
        """Publish a message that RabbitMQ is to move to `queue` after so many seconds.

        Returns True where RabbitMQ has confirmed it. On False it may hold the copy all the same, and nothing
        is published to it during the cooldown.
        """
        if self._monotonic() < self._cooldown_until:
            return False
        for _ in range(PUBLISH_ATTEMPTS):
            try:
                self._publish(copy, queue, seconds)
            except Exception as error:
                # Whatever it is, the worker still holds the message. A late confirmation must not be read
                # as that of the next message, so the connection is closed.
                self.close()
                failure = type(error).__name__
            else:
                return True
        logger.warning(
            "%s: RabbitMQ does not confirm delayed messages; workers hold them for the next %d s",
            failure,
            PAUSE_AFTER_FAILURE_SECONDS,
        )
        self._cooldown_until = self._monotonic() + PAUSE_AFTER_FAILURE_SECONDS
        return False

    def close(self) -> None:
        """Close the connection. The next message opens another one."""
        channel, self._channel = self._channel, None
        self._declared.clear()
        if channel is not None and channel.connection is not None:
            channel.connection.collect()

    def _publish(self, copy: amqp.Message, queue: str, seconds: int) -> None:
        if self._channel is None:
            self._channel = self._client.transport.establish_connection().channel()
        with self._channel.connection.transport.having_timeout(ANSWER_TIMEOUT_SECONDS):
            if seconds not in self._declared:
                self._declare(seconds)
            # Mandatory: where somebody has deleted the delay queue, this fails.
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

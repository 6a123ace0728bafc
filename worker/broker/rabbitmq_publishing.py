"""Publishes messages together: each is confirmed, and all confirmations are awaited at once.

A wait for each would cost as much as all else that a run does.
"""

from typing import Any

import amqp
from amqp.exceptions import MessageNacked
from kombu import Connection as Client
from kombu.exceptions import OperationalError

RECONNECT_SECONDS = 0.2
"""Until the second attempt to connect."""
ATTEMPTS = 2
"""The first may meet a connection that RabbitMQ has closed since it was last used."""
Addressed = tuple[str, amqp.Message]
"""A message, after the queue that it is for."""


def publish_together(client: Client, messages: dict[int, Addressed]) -> None:
    """Publish messages, each with its queue, which is declared where it does not exist.

    Removes each that RabbitMQ has confirmed. Raises `OperationalError` where some are left, of which it may
    have any.
    """
    for attempt in range(1, ATTEMPTS + 1):
        if not messages:
            return
        connection = client.ensure_connection(max_retries=1, interval_start=RECONNECT_SECONDS).connection
        try:
            connection.publications.publish(messages)
        except (*client.connection_errors, *client.channel_errors, MessageNacked) as error:
            # A late confirmation must not be read as that of another message.
            connection.collect()
            if attempt == ATTEMPTS:
                raise OperationalError(type(error).__name__) from error


class Publications:
    """The channel of a connection on which messages are published together."""

    def __init__(self, channel: Any) -> None:
        channel.confirm_select()
        channel.events["basic_ack"].add(self._confirmed)
        channel.events["basic_nack"].add(self._answered)
        channel.events["basic_return"].add(self._returned)
        self._channel = channel
        self._messages: dict[int, Addressed] = {}
        self._published = 0
        self._unanswered: dict[int, int] = {}
        """By number of a publication, which RabbitMQ counts, too: the key of its message."""
        self._nowhere: set[str] = set()
        """Queues that do not exist."""

    def publish(self, messages: dict[int, Addressed]) -> None:
        """Publish messages, each with its queue, and remove each that RabbitMQ has confirmed.

        Raises the connection's errors; `MessageNacked`, after all answers, where RabbitMQ refuses some.
        """
        self._messages = messages
        self._publish()
        if self._nowhere:
            for queue in self._nowhere:
                self._channel.connection.declarations.find_or_declare(queue)
            self._nowhere.clear()
            self._publish()
        if self._nowhere:
            raise amqp.RecoverableConnectionError("no queue accepts the message")
        if messages:
            raise MessageNacked

    def _publish(self) -> None:
        for key, (queue, message) in list(self._messages.items()):
            self._published += 1
            self._unanswered[self._published] = key
            self._channel.write(message, queue)
        while self._unanswered:
            self._channel.connection.drain_events()

    def _confirmed(self, number: int, multiple: bool) -> None:
        for key in self._answered(number, multiple):
            queue, _ = self._messages[key]
            # What was returned is confirmed all the same.
            if queue not in self._nowhere:
                del self._messages[key]

    def _answered(self, number: int, multiple: bool) -> list[int]:
        """The keys of the messages that an answer is for."""
        numbers = [each for each in self._unanswered if each <= number] if multiple else [number]
        return [self._unanswered.pop(each) for each in numbers]

    def _returned(self, error: Exception, exchange: str, queue: str, message: amqp.Message) -> None:
        self._nowhere.add(queue)

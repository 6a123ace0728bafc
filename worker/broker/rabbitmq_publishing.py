"""Publishes messages together: each is confirmed, and all confirmations are awaited at once.

A wait for each would cost as much as all else that a run does.
"""

from collections.abc import Sequence
from typing import Any

import amqp
from amqp.exceptions import MessageNacked
from kombu import Connection as Client
from kombu.exceptions import OperationalError

RECONNECT_SECONDS = 0.2
"""Until the second attempt to connect."""
ATTEMPTS = 2
"""The first may meet a connection that RabbitMQ has closed since it was last used."""


def publish_together(client: Client, messages: Sequence[tuple[str, amqp.Message]]) -> None:
    """Publish messages, each with its queue, which is declared where it does not exist.

    RabbitMQ has all of them on return. Raises `OperationalError`; then it may have any.
    """
    if not messages:
        return
    for attempt in range(1, ATTEMPTS + 1):
        connection = client.ensure_connection(max_retries=1, interval_start=RECONNECT_SECONDS).connection
        try:
            connection.publications.publish(messages)
        except (*client.connection_errors, *client.channel_errors, MessageNacked) as error:
            # A late confirmation must not be read as that of another message.
            connection.collect()
            if attempt == ATTEMPTS:
                raise OperationalError(type(error).__name__) from error
        else:
            return


class Publications:
    """The channel of a connection on which messages are published together."""

    def __init__(self, channel: Any) -> None:
        channel.confirm_select()
        channel.events["basic_ack"].add(self._confirmed)
        channel.events["basic_nack"].add(self._refused)
        channel.events["basic_return"].add(self._returned)
        self._channel = channel
        self._published = 0
        self._unconfirmed: set[int] = set()
        """Numbers of publications, which RabbitMQ counts, too."""
        self._nowhere: set[str] = set()
        """Queues that do not exist."""

    def publish(self, messages: Sequence[tuple[str, amqp.Message]]) -> None:
        """Publish messages, each with its queue. Raises the connection's errors and `MessageNacked`."""
        self._publish(messages)
        if self._nowhere:
            again = [(queue, message) for queue, message in messages if queue in self._nowhere]
            for queue in self._nowhere:
                self._channel.connection.declarations.find_or_declare(queue)
            self._nowhere.clear()
            self._publish(again)
        if self._nowhere:
            raise amqp.RecoverableConnectionError("no queue accepts the message")

    def _publish(self, messages: Sequence[tuple[str, amqp.Message]]) -> None:
        for queue, message in messages:
            self._published += 1
            self._unconfirmed.add(self._published)
            self._channel.write(message, queue)
        while self._unconfirmed:
            self._channel.connection.drain_events()

    def _confirmed(self, number: int, multiple: bool) -> None:
        self._unconfirmed -= {each for each in self._unconfirmed if each <= number} if multiple else {number}

    def _refused(self, number: int, multiple: bool) -> None:
        raise MessageNacked

    def _returned(self, error: Exception, exchange: str, queue: str, message: amqp.Message) -> None:
        # RabbitMQ confirms it all the same.
        self._nowhere.add(queue)

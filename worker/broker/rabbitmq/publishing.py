"""Publishes messages together: each is confirmed, and all confirmations are awaited at once.

A wait for each would cost as much as all else that a run does.
"""

import math
from collections.abc import Callable
from typing import Any

import amqp
from amqp.exceptions import MessageNacked
from kombu import Connection as Client
from kombu.exceptions import OperationalError

RECONNECT_SECONDS = 0.2
"""Until the second attempt to connect."""
LEFT_OUT_SECONDS = 30.0
"""Without another message for a queue that RabbitMQ has not answered for."""
Addressed = tuple[str, amqp.Message]
"""A message, after the queue that it is for."""


class Publisher:
    """Publishes messages together, over the connections of a process.

    RabbitMQ may not answer for a queue that it does not serve, as a quorum queue without a leader, and then
    for no other queue of the channel. Such a queue is left out for a while: each wait would be in vain.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._left_out_until: dict[str, float] = {}
        """By queue, in the clock's seconds."""

    def publish(self, client: Client, messages: dict[int, Addressed]) -> None:
        """Publish messages, each with its queue, which is declared where it does not exist.

        Removes each that RabbitMQ has confirmed. Raises `OperationalError` where some are left, of which it
        may have any.
        """
        left_out = {
            key: messages.pop(key) for key, (queue, _) in list(messages.items()) if self._is_left_out(queue)
        }
        try:
            self._publish(client, messages)
        finally:
            messages.update(left_out)
        if left_out:
            raise OperationalError("RabbitMQ does not answer for a queue")

    def _publish(self, client: Client, messages: dict[int, Addressed]) -> None:
        errors = (*client.connection_errors, *client.channel_errors, MessageNacked)
        try:
            try:
                _publish_once(client, messages)
            except TimeoutError:
                self._publish_by_queue(client, messages)
            except errors:
                # RabbitMQ may have closed the connection since it was last used.
                _publish_once(client, messages)
        except errors as error:
            raise OperationalError(type(error).__name__) from error

    def _publish_by_queue(self, client: Client, messages: dict[int, Addressed]) -> None:
        """Publish queue by queue, until RabbitMQ does not answer for one: nothing else tells which it is."""
        for queue in dict.fromkeys(queue for queue, _ in messages.values()):
            keys = [key for key, (its_queue, _) in messages.items() if its_queue == queue]
            of_queue = {key: messages.pop(key) for key in keys}
            try:
                _publish_once(client, of_queue)
            except TimeoutError:
                self._left_out_until[queue] = self._monotonic() + LEFT_OUT_SECONDS
                raise
            finally:
                messages.update(of_queue)

    def _is_left_out(self, queue: str) -> bool:
        return self._monotonic() < self._left_out_until.get(queue, -math.inf)


def _publish_once(client: Client, messages: dict[int, Addressed]) -> None:
    if not messages:
        return
    connection = client.ensure_connection(max_retries=1, interval_start=RECONNECT_SECONDS).connection
    try:
        connection.publications.publish(messages)
    except Exception:
        # A late confirmation must not be read as that of another message.
        connection.collect()
        raise


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

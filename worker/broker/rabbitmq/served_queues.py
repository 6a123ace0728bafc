"""Finds the queues that RabbitMQ declares and does not serve, as those whose leader is lost."""

from collections.abc import Iterable
from contextlib import suppress

import amqp
from celery import Celery

from worker.broker.rabbitmq.channel import Channel

TRIAL_TIMEOUT_SECONDS = 3.0
"""Until RabbitMQ must have said what is in a queue. Meanwhile, too."""


def unserved(app: Celery, queues: Iterable[str]) -> list[str]:
    """The queues that RabbitMQ does not serve, though they are declared.

    They are asked for over a connection of their own, which RabbitMQ closes over such a queue. Raises
    connection errors where RabbitMQ is away.
    """
    client = app.connection_for_read()
    channel, found = None, []
    try:
        for queue in queues:
            channel = channel or client.channel()
            if not _is_served(channel, queue, client.connection_errors):
                found.append(queue)
                client.collect()
                channel = None
    finally:
        client.collect()
    return found


def _is_served(channel: Channel, queue: str, errors: tuple[type[Exception], ...]) -> bool:
    try:
        with channel.connection.answering_within(TRIAL_TIMEOUT_SECONDS), suppress(amqp.NotFound):
            declared = channel.queue_declare(queue, passive=True)
            if not (declared.message_count or declared.consumer_count):
                # It is empty, or nobody counts. A message that has just come is requeued with the connection.
                channel.basic_get(queue)
    except errors:
        return False
    return True

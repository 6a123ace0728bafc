"""Moves calls of our tasks out of Celery's default queue, where they land if a sender forgets `queue=`."""

from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from celery import Celery
from kombu import Connection, Queue
from kombu.message import Message

from worker.broker.client import connect
from worker.broker.messages import read_task_call
from worker.queues import CHANGES_QUEUE, DEFAULT_QUEUE

WAIT_SECONDS = 1.0
"""For a message that another consumer has taken meanwhile."""
COPIED = ("correlation_id", "priority", "reply_to")
"""Properties that a copy keeps; the others belong to one message."""
PERSISTENT = 2
"""AMQP's delivery mode."""


class Rerouted(NamedTuple):
    """The numbers of messages that were moved and left."""

    moved: int
    left: int
    """Messages of other applications, which share the queue."""


def reroute(app: Celery, tasks: Collection[str], queue: str = DEFAULT_QUEUE) -> Rerouted:
    """Move the calls of these tasks from a queue to `audience.changes`.

    The broker holds a call's copy before the call is acknowledged. Raises
    `kombu.exceptions.OperationalError`.
    """
    with connect(app) as connection:
        channel: Any = connection.default_channel
        messages = channel.queue_declare(queue=queue, durable=True, auto_delete=False).message_count
        left: list[Message] = []
        moved = 0
        for message in _reserved(connection, queue, messages):
            if _task_of(message) in tasks:
                _send_copy(connection, message)
                message.ack()
                moved += 1
            else:
                left.append(message)
        for message in reversed(left):
            message.requeue()
        return Rerouted(moved, len(left))


def _reserved(connection: Connection, queue: str, messages: int) -> Iterator[Message]:
    """Reserve so many messages of a queue, fewer where others take some of them."""
    found: list[Message] = []
    # A consumer, as it reserves atomically; `basic_get` pops a message before it records it.
    with connection.Consumer([Queue(queue, no_declare=True)], on_message=found.append):
        for _ in range(messages):
            if not found:
                with suppress(TimeoutError):
                    connection.drain_events(timeout=WAIT_SECONDS)
            if not found:
                return
            yield found.pop(0)


def _task_of(message: Message) -> str | None:
    try:
        call = read_task_call(message)
    except Exception:
        # A message that cannot be read is no call of ours.
        return None
    return call and call.task


def _send_copy(connection: Connection, message: Message) -> None:
    producer = connection.Producer(auto_declare=False)
    properties = {key: value for key, value in message.properties.items() if key in COPIED}
    headers = dict(message.headers or {})
    compression = headers.pop("compression", None)
    producer.publish(
        message.body,
        routing_key=CHANGES_QUEUE,
        exchange="",
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        headers=headers,
        compression=compression,
        delivery_mode=PERSISTENT,
        **properties,
    )

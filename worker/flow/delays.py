"""Delayed delivery: a message whose time has not come waits in the broker, not in a worker."""

from collections.abc import Callable
from datetime import UTC, datetime

from kombu.message import Message

from worker.broker.rabbitmq.queues import is_often_delivered

SHORTEST_DELAY_SECONDS = 0.01
"""A message that is due sooner is not delayed: reserving it again takes as long."""
RENEWAL_SECONDS = 1.0


def delay_until_due(message: Message, clock: Callable[[], float]) -> bool:
    """Delay a message that has an ETA, in the broker. True: it is no longer this worker's.

    False where it is due, where it has no ETA, or where the broker cannot delay it: then Celery
    waits in the worker. An ETA in the body (protocol 1) is left to Celery.
    """
    eta = message.headers.get("eta")
    if not eta:
        return False
    due = unix_seconds(eta)
    if due - clock() > SHORTEST_DELAY_SECONDS:
        return delay_message(message, due)
    # Celery would hand a message with an ETA to its timer, even one that is long past.
    message.headers["eta"] = None
    return False


def renew_often_delivered(message: Message, clock: Callable[[], float]) -> bool:
    """Replace a message that a quorum queue has delivered often. True: it is no longer this worker's.

    At its delivery limit, which is 20 by default from RabbitMQ 4 on, the queue drops a message. A copy begins
    at 0. A message that is requeued so often has met a stream that could not take it.
    """
    return is_often_delivered(message.headers) and delay_message(message, clock() + RENEWAL_SECONDS)


def delay_message(message: Message, until: float) -> bool:
    """Have the broker deliver a message again at a time (Unix seconds).

    False where the broker cannot: the message is still unacknowledged and this worker's.
    """
    delay = getattr(message.channel, "delay", None)
    return delay is not None and bool(delay(message, until))


def unix_seconds(text: str) -> float:
    """An ISO 8601 time, of UTC where it names no zone, in Unix seconds."""
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()

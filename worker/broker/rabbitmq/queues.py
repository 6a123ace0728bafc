"""How the queues of calls are declared on RabbitMQ, where they do not exist yet.

`audience.changes` bears no argument: plain Celery callers declare it so, too, and RabbitMQ refuses a
declaration with other arguments than the queue's. It is of the virtual host's default type. Streams' queues
are declared by this project alone.
"""

from collections.abc import Mapping
from typing import Any

from worker.queues import CHANGES_QUEUE, DROPPED_QUEUE, is_stream_queue

QUEUE_TYPES = ("classic", "quorum")
UNLIMITED = -1
"""Deliveries of a message. A version before 4.0 has no limit by default, and reads this as none at all."""
LIMITED_SINCE = 4
"""The major version whose quorum queues drop a message after 20 deliveries by default."""

DELIVERY_COUNTS = ("x-delivery-count", "x-acquired-count")
"""The headers of a quorum queue: how often a message came back. RabbitMQ before 4.3 limits the second one."""
RENEWED_AFTER_DELIVERIES = 10
"""Workers replace a message that came back so often by a copy, whose count begins at 0. It is half of the
default limit: a message may come back a few times more before RabbitMQ takes its copy."""


def holds_calls(queue: str) -> bool:
    """Whether a queue is one of those that workers consume calls from."""
    return queue in (CHANGES_QUEUE, DROPPED_QUEUE) or is_stream_queue(queue)


def queue_arguments(queue: str, queue_type: str | None, version: str) -> dict[str, Any]:
    """The arguments with which a queue is declared on a RabbitMQ of this version.

    The type is that of streams' queues; None stands for the virtual host's default type.
    """
    if queue_type is None or not is_stream_queue(queue):
        return {}
    arguments: dict[str, Any] = {"x-queue-type": queue_type}
    if queue_type == "quorum":
        arguments |= {
            "x-dead-letter-exchange": DROPPED_QUEUE,
            # RabbitMQ keeps what it drops until it is in the other queue, and demands the overflow for that.
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }
        if major(version) >= LIMITED_SINCE:
            arguments["x-delivery-limit"] = UNLIMITED
    return arguments


def major(version: str) -> int:
    """The first number of a version; 0 where it is none."""
    number = version.partition(".")[0]
    return int(number) if number.isdecimal() else 0


def is_often_delivered(headers: Mapping[str, Any] | None) -> bool:
    """Whether workers replace a message with these headers by a copy."""
    counts = [(headers or {}).get(name) for name in DELIVERY_COUNTS]
    return any(type(count) is int and count >= RENEWED_AFTER_DELIVERIES for count in counts)

"""Checks of RabbitMQ for `audience-firehose doctor` and for a worker's start, with what AMQP itself tells."""

import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import amqp
from amqp.exceptions import AccessRefused, NotAllowed, PreconditionFailed
from kombu import Connection

from worker.broker.rabbitmq.queues import RENEWED_AFTER_DELIVERIES
from worker.store.server_checks import Check, Finding, Outcome

OLDEST_VERSION = (3, 10)
"""The oldest RabbitMQ that is tested: the delay queues need it."""
PROBE_EXPIRY = {"x-expires": 60_000}
"""Milliseconds after which RabbitMQ itself removes what a check could not remove."""
MARGIN_DELIVERIES = 5
"""How often a message may come back after workers would have replaced it, had RabbitMQ taken the copy."""
PROBE_DELIVERIES = 30
"""A limit above this is none: workers replace a message long before."""
PROBE_POLLS = 50
"""After which a probe that has not come back counts as dropped."""
POLL_INTERVAL_SECONDS = 0.01


def check_rabbitmq(connection: Connection, sleep: Callable[[float], None] = time.sleep) -> Iterator[Finding]:
    """Check the server of a connection. Raises the connection's errors."""
    yield check_version(str(connection.connection.server_properties.get("version", "")))
    try:
        yield check_default_queue_type(connection)
        yield check_delivery_limit(connection, sleep)
    except (AccessRefused, NotAllowed):
        message = (
            "the user lacks configure, write or read on the virtual host for names that begin with audience."
            " or firehose.: `rabbitmqctl set_permissions`"
        )
        yield Finding(Check.PERMISSIONS, Outcome.FAILED, message)


def check_version(version: str) -> Finding:
    """Whether this version is one that is tested."""
    numbers = [int(part) for part in version.split(".")[:2] if part.isdecimal()]
    if tuple(numbers) < OLDEST_VERSION:
        message = f"RabbitMQ {version or 'of an unknown version'}: upgrade to 3.10 or later"
        return Finding(Check.VERSION, Outcome.FAILED, message)
    return Finding(Check.VERSION, Outcome.OK, f"RabbitMQ {version}")


def check_default_queue_type(connection: Connection) -> Finding:
    """The type of `audience.changes`, and of streams' queues without AUDIENCE_RABBITMQ_QUEUE_TYPE.

    AMQP does not tell: a queue is declared without a type, and once more as classic, and deleted.
    """
    name = _probe_name()
    with connection.channel() as channel:
        channel.queue_declare(name, durable=True, auto_delete=False, arguments=PROBE_EXPIRY)
    try:
        with connection.channel() as channel:
            classic = PROBE_EXPIRY | {"x-queue-type": "classic"}
            channel.queue_declare(name, durable=True, auto_delete=False, arguments=classic)
    except PreconditionFailed:
        return Finding(Check.QUEUE_TYPE, Outcome.OK, "quorum")
    finally:
        with connection.channel() as channel:
            channel.queue_delete(name)
    return Finding(Check.QUEUE_TYPE, Outcome.OK, "classic")


def check_delivery_limit(connection: Connection, sleep: Callable[[float], None]) -> Finding:
    """How often a message may come back to a quorum queue, by a policy or by the server's default.

    AMQP does not tell: a message of a quorum queue is requeued until it is gone.
    """
    limit = _delivery_limit(connection, sleep)
    if limit is None:
        return Finding(Check.DELIVERY_LIMIT, Outcome.OK, "none, or far above what a message meets")
    if limit >= RENEWED_AFTER_DELIVERIES + MARGIN_DELIVERIES:
        message = (
            f"{limit}; workers replace a message by a copy when it came back {RENEWED_AFTER_DELIVERIES} times"
        )
        return Finding(Check.DELIVERY_LIMIT, Outcome.OK, message)
    message = (
        f"quorum queues drop a message that came back {limit} times, before workers replace it by a copy:"
        " set delivery-limit to 20 or more in the policy for ^(audience|firehose)\\."
    )
    return Finding(Check.DELIVERY_LIMIT, Outcome.FAILED, message)


def _delivery_limit(connection: Connection, sleep: Callable[[float], None]) -> int | None:
    """None where a message is still there after many deliveries."""
    name = _probe_name()
    arguments = PROBE_EXPIRY | {
        "x-queue-type": "quorum",
        # A policy's dead-letter exchange is not for the probe.
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": f"{name}.nowhere",
    }
    with connection.channel() as channel:
        channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
        try:
            channel.basic_publish(amqp.Message(b"probe", delivery_mode=2), "", name)
            for returns in range(-1, PROBE_DELIVERIES):
                message = _next_delivery(channel, name, sleep)
                if message is None:
                    return max(returns, 0)
                channel.basic_reject(message.delivery_tag, requeue=True)
        finally:
            channel.queue_delete(name)
    return None


def _next_delivery(channel: Any, queue: str, sleep: Callable[[float], None]) -> Any:
    """The probe; None where it is gone."""
    for _ in range(PROBE_POLLS):
        if message := channel.basic_get(queue):
            return message
        sleep(POLL_INTERVAL_SECONDS)
    return None


def _probe_name() -> str:
    return f"audience.doctor.{uuid4().hex}"

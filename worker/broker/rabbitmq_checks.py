"""Checks of RabbitMQ for `audience-firehose doctor`, with what AMQP itself tells."""

from collections.abc import Iterator
from uuid import uuid4

from amqp.exceptions import PreconditionFailed
from kombu import Connection

from worker.store.server_checks import Check, Finding, Outcome

OLDEST_VERSION = (3, 10)
"""The oldest RabbitMQ that is tested: the delay queues need it."""


def check_rabbitmq(connection: Connection) -> Iterator[Finding]:
    """Check the server of a connection. Raises the connection's errors."""
    yield check_version(str(connection.connection.server_properties.get("version", "")))
    yield check_default_queue_type(connection)


def check_version(version: str) -> Finding:
    """Whether this version is one that is tested."""
    numbers = [int(part) for part in version.split(".")[:2] if part.isdecimal()]
    if tuple(numbers) < OLDEST_VERSION:
        message = f"RabbitMQ {version or 'of an unknown version'}: upgrade to 3.10 or later"
        return Finding(Check.VERSION, Outcome.FAILED, message)
    return Finding(Check.VERSION, Outcome.OK, f"RabbitMQ {version}")


def check_default_queue_type(connection: Connection) -> Finding:
    """Whether queues are classic unless they say otherwise.

    AMQP does not tell: a queue is declared without a type, and once more as classic, and deleted.
    """
    name = f"audience.doctor.{uuid4().hex}"
    with connection.channel() as channel:
        channel.queue_declare(name, durable=True, auto_delete=False, arguments={"x-expires": 60_000})
    try:
        with connection.channel() as channel:
            classic = {"x-expires": 60_000, "x-queue-type": "classic"}
            channel.queue_declare(name, durable=True, auto_delete=False, arguments=classic)
    except PreconditionFailed:
        message = (
            "not classic: workers need it to be classic for the virtual host of CELERY_BROKER_URL"
            " (`rabbitmqctl` or the management page sets it when the virtual host is made)"
        )
        return Finding(Check.QUEUE_TYPE, Outcome.FAILED, message)
    finally:
        with connection.channel() as channel:
            channel.queue_delete(name)
    return Finding(Check.QUEUE_TYPE, Outcome.OK, "classic")

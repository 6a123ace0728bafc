"""Checks of the broker's server, whichever it is. `doctor` runs them, and the start of a worker does."""

from collections.abc import Iterator

import amqp
from celery import Celery
from kombu.transport import redis as redis_transport

from worker.broker.client import connect
from worker.broker.rabbitmq.checks import check_rabbitmq
from worker.store.server_checks import Check, Finding, Outcome, check_redis

KEY_PREFIX = "audience."
"""The prefix of the keys in the broker's Redis that are not kombu's."""


def check_broker(app: Celery, wait_replicas: int) -> Iterator[Finding]:
    """Check the broker. `wait_replicas` is how many replicas writes wait for.

    Raises `kombu.exceptions.OperationalError`, `RedisError` or `OSError` where it cannot be reached.
    """
    with connect(app) as connection, connection.channel() as channel:
        if isinstance(channel, redis_transport.Channel):
            with channel.conn_or_acquire() as client:
                yield from check_redis(client, KEY_PREFIX, wait_replicas)
        elif isinstance(channel, amqp.Channel):
            yield from check_rabbitmq(connection)
        else:
            message = "neither Redis nor RabbitMQ: correct CELERY_BROKER_URL"
            yield Finding(Check.CONNECTION, Outcome.FAILED, message)

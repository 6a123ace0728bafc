"""Marks in the broker that an attempt's messages were sent, for a broker that fails over.

An idempotency record lives in the state. If the broker is another server and fails over to a replica
that is behind, it may hold a message again whose batches, retry or following batch it has lost: the record
alone would have the message skipped. So the broker marks the attempt: atomically with its only message, or
after the last of several. A replica applies writes in their order: one that has the mark has the messages.

If broker and state are one server, no mark is needed: it loses the record with the messages. RabbitMQ's
quorum queues lose nothing that they have confirmed.
"""

from typing import Any
from urllib.parse import urlsplit

from celery import Celery
from kombu.transport import redis as redis_transport

from worker.store.atomic import atomically

REDIS_PORT = 6379
HANDED_OVER = "audience.handed-over"
"""By attempt: its messages were sent."""
MARK_HEADER = "handed_over_as"
"""The header of an attempt's only message, which the channel takes out: the mark's key, and its seconds."""


class Handovers:
    """The marks, over the connections that the process sends its messages with."""

    def __init__(self, app: Celery, *, keep_seconds: int, are_needed: bool) -> None:
        self._app = app
        self._keep_seconds = keep_seconds
        self.are_needed = are_needed
        """Whether there are marks."""

    def mark(self, attempt: str) -> bool:
        """Mark an attempt whose messages the broker has. False: it needs no mark.

        Raises `RedisError` and `OperationalError`.
        """
        return self._run(attempt, is_new=True)

    def header(self, attempt: str) -> dict[str, Any]:
        """The header of an attempt's only message, by which the broker marks it; empty without marks."""
        return {MARK_HEADER: [f"{HANDED_OVER}:{attempt}", self._keep_seconds]} if self.are_needed else {}

    def is_lost(self, attempt: str) -> bool:
        """Whether the broker has lost the messages of an attempt that was marked. Raises as `mark` does."""
        return self.are_needed and not self._run(attempt, is_new=False)

    def _run(self, attempt: str, *, is_new: bool) -> bool:
        if not self.are_needed:
            return False
        key = f"{HANDED_OVER}:{attempt}"
        with self._app.producer_or_acquire() as producer:
            channel = producer.channel
            if not isinstance(channel, redis_transport.Channel):
                return not is_new
            with channel.conn_or_acquire() as client:
                if is_new:
                    atomically(client, lambda pipe: pipe.set(key, 1, ex=self._keep_seconds))
                    return True
                return bool(client.exists(key))


def needs_marks(broker_url: str, redis_url: str) -> bool:
    """Whether the broker is a Redis that may lose what the state keeps: another server, as the URLs tell."""
    # Of several URLs, which are nodes of a cluster, one is enough: the broker is never on one.
    broker, state = urlsplit(broker_url), urlsplit(redis_url.partition(";")[0])
    if broker.scheme.startswith("sentinel"):
        return True
    if not broker.scheme.startswith(("redis", "unix")):
        return False
    if broker.hostname is None or state.hostname is None:
        return (broker.hostname, broker.path) != (state.hostname, state.path)
    return (broker.hostname, broker.port or REDIS_PORT) != (state.hostname, state.port or REDIS_PORT)

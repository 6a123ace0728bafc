"""The identity of an installation: a random text that its broker and its state both hold.

A worker whose state was emptied, or whose AUDIENCE_REDIS_URL points elsewhere, finds no connection for any
audience. By the identity it knows that the registry is missing, and does not skip the changes.
"""

from collections.abc import Callable
from typing import Protocol
from uuid import uuid4

from redis import Redis

from worker.failures.alert_types import AlertType, Failure
from worker.state.registry import CONNECTIONS, INSTALLATION, Registry, Snapshot

BROKER_REREAD_SECONDS = 10.0
"""For which the broker's identity is not read again."""

STATE_MISSING = Failure(
    AlertType.WORKER_TROUBLE,
    "StateMissing",
    "the Redis of AUDIENCE_REDIS_URL does not belong to this broker: it was emptied, or it is another"
    " installation's. Correct AUDIENCE_REDIS_URL, restore the Redis, or register the connections again with"
    " `audience-firehose connect`",
)


class Broker(Protocol):
    """The identity in the broker."""

    def read(self) -> str | None:
        """The identity; None where the broker holds none, as RabbitMQ never does."""

    def write(self, identity: str) -> None:
        """Have the broker hold this identity, unless it holds one."""


class Installation:
    """Compares the identities of the broker and the state.

    All methods raise `RedisError`, and `OperationalError` where the broker cannot be reached.
    """

    def __init__(self, redis: Redis, broker: Broker, monotonic: Callable[[], float]) -> None:
        self._redis = redis
        self._broker = broker
        self._monotonic = monotonic
        self._in_broker: str | None = None
        self._read_at: float | None = None

    def latest_of(self, registry: Registry) -> Snapshot | None:
        """The registry as it is now; None where the broker has an identity that the state lacks.

        A snapshot is trusted by the identity that was read with it. A state that has been restored a moment
        later says nothing of it.
        """
        snapshot, expected = registry.refresh(), self._identity_in_broker()
        if expected in (None, snapshot.installation):
            return snapshot
        # An identity that is adopted is written without a new version of the registry.
        snapshot = registry.reread()
        return snapshot if snapshot.installation == expected else None

    def register(self) -> None:
        """Have the broker and the state hold the same identity, unless they hold two already.

        An operator who registers a connection says thereby that they belong together.
        """
        in_broker = self._broker.read()
        self._redis.set(INSTALLATION, in_broker or uuid4().hex, nx=True)
        if in_broker is None:
            self._broker.write(self._redis.get(INSTALLATION))

    def adopt(self) -> None:
        """Register an installation of a version that knew no identity, and a broker that was emptied.

        A state that holds no connection, or a broker with an identity that the state lacks, is left alone.
        """
        is_known = self._redis.exists(INSTALLATION)
        if is_known or (self._redis.exists(CONNECTIONS) and self._broker.read() is None):
            self.register()

    def _identity_in_broker(self) -> str | None:
        now = self._monotonic()
        if self._read_at is None or now - self._read_at > BROKER_REREAD_SECONDS:
            self._in_broker, self._read_at = self._broker.read(), now
        return self._in_broker

"""The identity of an installation, in the broker's Redis. RabbitMQ holds nothing but messages."""

from celery import Celery
from kombu.transport import redis as redis_transport

from worker.broker.client import as_operational, connect
from worker.broker.redis.message import decode

BROKER_INSTALLATION = "audience.installation"
"""The key in the broker's Redis."""


class BrokerIdentity:
    """Reads and writes it over a connection of its own, as it is rarely needed."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def read(self) -> str | None:
        """The identity; None where the broker holds none.

        Raises `RedisError`, and `OperationalError` where the broker cannot be reached.
        """
        return self._get_or_set(None)

    def write(self, identity: str) -> None:
        """Have the broker hold this identity, unless it holds one. Raises as `read` does."""
        self._get_or_set(identity)

    def _get_or_set(self, identity: str | None) -> str | None:
        with (
            connect(self._app) as connection,
            as_operational(connection),
            connection.channel() as channel,
        ):
            if not isinstance(channel, redis_transport.Channel):
                return None
            with channel.conn_or_acquire() as client:
                if identity is not None:
                    client.set(BROKER_INSTALLATION, identity, nx=True)
                found = client.get(BROKER_INSTALLATION)
                return None if found is None else decode(found)

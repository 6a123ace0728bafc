"""The broker's Redis client: plain pipelines, and one error for a server that cannot serve just now."""

from typing import Any

from celery import Celery
from redis.client import Pipeline as PlainPipeline
from redis.client import Redis
from redis.exceptions import BusyLoadingError, ConnectionError, RedisError, ResponseError

UNAVAILABLE = ("READONLY", "NOREPLICAS", "MISCONF", "BUSY", "LOADING", "MASTERDOWN")
"""Error codes of a server that accepts no write, or no command at all, until a failover, a script or a
snapshot is over. Source: `shared` in Redis's server.c."""
ERROR_RESPONSES = (ResponseError, BusyLoadingError)
"""The errors that redis-py raises for a server's answer; LOADING becomes one of the connection."""
PROBE_KEY = "audience.probe"
"""Is never there. To delete it is a write all the same, which a server refuses that cannot serve."""


class ServerUnavailable(ConnectionError):  # type: ignore[misc]
    """The server answers, but cannot serve now. The worker reconnects, perhaps to its successor."""

    @property
    def code(self) -> str:
        """The server's error code, one of `UNAVAILABLE`."""
        return str(self).rpartition(" ")[2]


class _Responses:
    """Raises `ServerUnavailable` in place of the errors that end by waiting or by reconnecting.

    kombu counts them among the errors of a channel, over which Celery ends the worker.
    """

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        """The server's response to a command."""
        try:
            return super().parse_response(connection, command_name, **options)  # type: ignore[misc]
        except ERROR_RESPONSES as error:
            if code := unavailable_code(error):
                raise ServerUnavailable(f"Redis responds {code}") from error
            raise


class Pipeline(_Responses, PlainPipeline):  # type: ignore[misc]
    """A pipeline of the same kind."""


class Client(_Responses, Redis):  # type: ignore[misc]
    """A client whose pipelines are plain by default: kombu's are transactions, which a full Redis refuses,
    and none of them needs to be one."""

    def pipeline(self, transaction: bool = False, shard_hint: str | None = None) -> Pipeline:
        """A pipeline, which is a transaction only on request."""
        return Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


def unavailable_code(error: RedisError) -> str:
    """The code by which a server says that it is unavailable; empty for any other error.

    Redis before 7 puts the code of an error inside a script behind the script's name.
    """
    code = getattr(error, "status_code", None) or str(error).partition(" ")[0]
    if code in UNAVAILABLE:
        return str(code)
    return next((code for code in UNAVAILABLE if f": -{code} " in str(error)), "")


def try_write(app: Celery) -> None:
    """Write nothing to the broker, over a connection of its own, which leads to the master of now.

    Raises `ServerUnavailable`, or what else a connection may raise.
    """
    try:
        with app.connection_for_write() as connection, connection.channel() as channel:
            channel.client.delete(PROBE_KEY)
    except ERROR_RESPONSES as error:
        if code := unavailable_code(error):
            raise ServerUnavailable(f"Redis responds {code}") from error
        raise

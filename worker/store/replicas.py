"""Writes that replicas confirm: Redis's WAIT, on the connection that has written.

Redis replicates asynchronously: a master that fails may have answered a write that no replica has. WAIT
counts the replicas that have what its own connection has written; a connection that was made anew, perhaps to
another master, has written nothing. So the write and WAIT are one pipeline.
"""

from collections.abc import Callable
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from worker.store.scripts import Script

CONFIRM_TIMEOUT_MILLISECONDS = 2000
"""For which replicas are waited for. Below the timeout of the socket."""
CONFIRMED = "audience:confirmed"
"""The key of a write that changes nothing else: a command before it may have found nothing to write."""
TOUCH = Script(__package__, "touch")


class TooFewReplicas(RedisError):  # type: ignore[misc]
    """The server has a write that fewer replicas than AUDIENCE_REDIS_WAIT_REPLICAS have confirmed."""


def run_confirmed(redis: Redis, replicas: int, command: Callable[[Redis], Any]) -> Any:
    """Run one command, and return its answer once so many replicas have what it wrote.

    Raises `TooFewReplicas` where they have not confirmed it in time; the server has it all the same. For 0
    replicas the command alone is run. Raises `RedisError`.
    """
    if not replicas:
        return command(redis)
    with redis.pipeline(transaction=False) as pipe:
        command(pipe)
        TOUCH(pipe, keys=[CONFIRMED], args=[replicas])
        pipe.wait(replicas, CONFIRM_TIMEOUT_MILLISECONDS)
        # redis-py would put the command's words into the error: they hold records.
        answer, touched, confirmed = pipe.execute(raise_on_error=False)
    for error in (answer, touched, confirmed):
        if isinstance(error, Exception):
            raise error
    if confirmed < replicas:
        raise TooFewReplicas(f"{confirmed} of {replicas} replicas have confirmed a write to Redis")
    return answer

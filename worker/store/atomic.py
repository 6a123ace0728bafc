"""Atomic groups of commands, which a full Redis executes too.

A Redis at its `maxmemory` refuses each command that may take memory, and begins no transaction.
But it stops no script that has already written. Delivering a message empties a full Redis, so the
commands of a delivery run in a script that begins with a write which is always allowed. Commands
that add a caller's data do not: a full Redis refuses them.

redis-py sends a command again where the connection ended before its answer came, whether or not it ran.
Commands for which that matters, as they add to counters, run `once`.
"""

from collections.abc import Callable
from typing import Any

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import OutOfMemoryError, RedisError

from worker.store.keys import keys_of
from worker.store.scripts import Script

WRITE_FIRST_KEY = "audience:nothing"
"""A key that never exists: deleting it is a write that a full Redis allows, and that changes nothing."""
ATOMICALLY = Script(__package__, "atomically")
ONCE = Script(__package__, "once")


def atomically(redis: Redis, commands: Callable[[Pipeline], object]) -> list[Any]:
    """Run the commands that are put into a pipeline, as a transaction would. Returns Redis's own answers.

    Raises the first `RedisError` among them; like a transaction, after all have run.
    """
    pipe = redis.pipeline()
    commands(pipe)
    return _run(redis, pipe, "1")


def read_atomically(redis: Redis, commands: Callable[[Pipeline], object]) -> list[Any]:
    """Run commands that only read, atomically; a read-only replica runs them, too."""
    pipe = redis.pipeline()
    commands(pipe)
    return _run(redis, pipe, "0")


def once(
    redis: Redis,
    commands: Callable[[Pipeline], object],
    *,
    marked: str,
    mark: str,
    even_if_full: bool = True,
) -> None:
    """Run the commands atomically, and once: a command whose answer was lost is sent again by redis-py.

    The first of them sets the key `marked` to `mark`, which detects a repetition. Raises the first
    `RedisError` among them. A full Redis refuses them unless they are to run `even_if_full`.

    A script can run no script. If there is one among the commands, they are a transaction: a repetition by
    the caller is detected, and one by redis-py is not.
    """
    pipe = redis.pipeline()
    commands(pipe)
    if pipe.scripts:
        if redis.get(marked) != mark:
            pipe.execute()
        return
    keys, parts = _keys_and_parts(pipe)
    full = "1" if even_if_full else "0"
    _raise_first_error(ONCE(redis, keys=[WRITE_FIRST_KEY, marked, *keys], args=[full, mark, *parts]))


def _run(redis: Redis, pipe: Pipeline, even_if_full: str) -> list[Any]:
    keys, parts = _keys_and_parts(pipe)
    answers: list[Any] = ATOMICALLY(redis, keys=[WRITE_FIRST_KEY, *keys], args=[even_if_full, *parts])
    _raise_first_error(answers)
    return answers


def _keys_and_parts(pipe: Pipeline) -> tuple[list[Any], list[Any]]:
    """The keys of a pipeline's commands, and the commands without them, as the scripts read them."""
    keys: list[Any] = []
    parts: list[Any] = []
    for (name, *words), _ in pipe.command_stack:
        count = len(keys_of([name, *words]))
        keys += words[:count]
        parts += [count, len(words) - count, name, *words[count:]]
    return keys, parts


def _raise_first_error(answers: list[Any]) -> None:
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer


def is_out_of_memory(error: RedisError) -> bool:
    """Whether a full Redis has refused a command; before Redis 7 it reports a script's as any error."""
    return isinstance(error, OutOfMemoryError) or "OOM" in str(error)

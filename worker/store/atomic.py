"""Atomic groups of commands, which a full Redis executes too.

A Redis at its `maxmemory` refuses each command that may take memory, and begins no transaction.
But it stops no script that has already written. Delivering a message empties a full Redis, so the
commands of a delivery run in a script that begins with a write which is always allowed. Commands
that add a caller's data do not: a full Redis refuses them.
"""

from collections.abc import Callable, Sequence
from typing import Any

from redis import Redis
from redis.client import Pipeline

from worker.store.scripts import Script

WRITE_FIRST_KEY = "audience:nothing"
"""A key that never exists: deleting it is a write that a full Redis allows, and that changes nothing."""
MULTI_KEY_COMMANDS = frozenset({"DEL", "EXISTS"})
"""Commands whose every word is a key; of the others that this project runs, only the first is."""
ATOMICALLY = Script(__package__, "atomically")


def atomically(
    redis: Redis, commands: Callable[[Pipeline], object], *, even_if_full: bool = True
) -> list[Any]:
    """Run the commands that are put into a pipeline, as a transaction would. Returns Redis's own answers.

    Raises the first `RedisError` among them; like a transaction, after all have run. A full Redis refuses
    the commands unless they are to run `even_if_full`.
    """
    pipe = redis.pipeline()
    commands(pipe)
    return _run(redis, pipe, "1") if even_if_full else list(pipe.execute())


def read_atomically(redis: Redis, commands: Callable[[Pipeline], object]) -> list[Any]:
    """Run commands that only read, atomically; a read-only replica runs them, too."""
    pipe = redis.pipeline()
    commands(pipe)
    return _run(redis, pipe, "0")


def _run(redis: Redis, pipe: Pipeline, even_if_full: str) -> list[Any]:
    commands = [words for words, _ in pipe.command_stack]
    keys = [WRITE_FIRST_KEY, *(key for words in commands for key in keys_of(words))]
    parts = [part for words in commands for part in (len(words), *words)]
    answers: list[Any] = ATOMICALLY(redis, keys=keys, args=[even_if_full, *parts])
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def keys_of(words: Sequence[Any]) -> list[Any]:
    """The keys of a command, given as its words."""
    return list(words[1:]) if words[0] in MULTI_KEY_COMMANDS else [words[1]]

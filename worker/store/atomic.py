"""Atomic groups of commands, which a full Redis executes too.

A Redis at its `maxmemory` refuses each command that may take memory, and begins no transaction.
But it stops no script that has already written. Delivering a message empties a full Redis, so the
commands of a delivery run in a script that begins with a write which is always allowed. Commands
that add a caller's data do not: a full Redis refuses them.
"""

from collections.abc import Callable
from typing import Any

from redis import Redis
from redis.client import Pipeline

WRITE_FIRST_KEY = "audience:nothing"
"""A key that never exists: deleting it is a write that a full Redis allows, and that changes nothing."""
BEGIN = f"redis.call('DEL', '{WRITE_FIRST_KEY}')\n"
"""A script that begins with it may write in a full Redis."""

COMMANDS = """
local answers, at = {}, 1
while at <= #ARGV do
    local last = at + ARGV[at]
    answers[#answers + 1] = redis.pcall(unpack(ARGV, at + 1, last))
    at = last + 1
end
return answers
"""


def in_one_step(
    redis: Redis, commands: Callable[[Pipeline], object], *, even_if_full: bool = True
) -> list[Any]:
    """Execute the commands that are put into a pipeline, as a transaction would. Returns Redis's own answers.

    Raises the first `RedisError` among them; like a transaction, after all has been executed.
    """
    pipe = redis.pipeline()
    commands(pipe)
    return _execute(redis, BEGIN + COMMANDS, pipe) if even_if_full else list(pipe.execute())


def read_in_one_step(redis: Redis, commands: Callable[[Pipeline], object]) -> list[Any]:
    """Execute commands that only read, atomically; a read-only replica executes them, too."""
    pipe = redis.pipeline()
    commands(pipe)
    return _execute(redis, COMMANDS, pipe)


def _execute(redis: Redis, script: str, pipe: Pipeline) -> list[Any]:
    parts = [part for arguments, _ in pipe.command_stack for part in (len(arguments), *arguments)]
    answers: list[Any] = redis.eval(script, 0, *parts)
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers

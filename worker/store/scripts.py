"""Lua scripts, a file each beside the module that runs them, and the one way to run them.

A script's file begins with a comment that says what it does, names KEYS and ARGV one by one, and
says what it returns. Every key that a script touches is passed in KEYS.
"""

from collections.abc import Sequence
from hashlib import sha1
from importlib.resources import files
from typing import Any

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import NoScriptError


class Script:
    """A script of this project. Running it sends its digest, and its text only to a server that lacks it."""

    def __init__(self, package: str, name: str, *, definitions: str = "") -> None:
        """Load `<name>.lua` from a package (its dotted name).

        Functions that several scripts share are in another file of the package, named by `definitions`.
        """
        self.name = name
        self.text = "".join(
            files(package).joinpath(f"{file}.lua").read_text("utf-8") for file in (definitions, name) if file
        )
        self.digest = sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        """The name that Redis gives the script."""

    def __call__(self, redis: Redis, *, keys: Sequence[str | bytes], args: Sequence[Any] = ()) -> Any:
        """Run it atomically and return its answer. Raises `RedisError`.

        `redis` is a client or a pipeline; of a pipeline, the answer comes when it is executed.
        """
        if isinstance(redis, Pipeline):
            return redis.register_script(self.text)(keys=keys, args=args, client=redis)
        try:
            return redis.evalsha(self.digest, len(keys), *keys, *args)
        except NoScriptError:
            return redis.eval(self.text, len(keys), *keys, *args)

    def __repr__(self) -> str:
        return f"<Script {self.name}>"

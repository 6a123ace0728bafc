"""The places of the keys among the words of a command, for the commands that are run on the state."""

from collections.abc import Sequence
from typing import Any

MULTI_KEY_COMMANDS = frozenset({"DEL", "EXISTS", "MGET", "UNLINK", "WATCH"})
"""Commands whose every word is a key."""
SCRIPT_COMMANDS = frozenset({"EVAL", "EVALSHA"})
"""Commands that say how many keys follow."""
KEYLESS_COMMANDS = frozenset(
    {
        "ACL",
        "AUTH",
        "CLIENT",
        "CLUSTER",
        "CONFIG",
        "DBSIZE",
        "DISCARD",
        "ECHO",
        "EXEC",
        "FLUSHALL",
        "FLUSHDB",
        "HELLO",
        "INFO",
        "MULTI",
        "PING",
        "ROLE",
        "SCRIPT",
        "SELECT",
        "SWAPDB",
        "TIME",
        "UNWATCH",
        "WAIT",
        "WAITAOF",
    }
)
"""Of all others, the first word is the key, or a pattern of keys."""


def key_positions(words: Sequence[Any]) -> range:
    """The positions of a command's keys, or of its pattern of keys, among its words.

    The first word is the command's name.
    """
    # redis-py has commands of two words, such as `SCRIPT LOAD`, as one.
    name = str(words[0]).upper().partition(" ")[0]
    if name in KEYLESS_COMMANDS:
        return range(0)
    if name in SCRIPT_COMMANDS:
        return range(3, 3 + int(words[2]))
    if name in MULTI_KEY_COMMANDS:
        return range(1, len(words))
    if name == "SCAN":
        after = [at + 1 for at, word in enumerate(words) if word in ("MATCH", b"MATCH")]
        return range(after[0], after[0] + 1) if after else range(0)
    return range(1, 2)


def keys_of(words: Sequence[Any]) -> list[Any]:
    """The keys of a command, given as its words."""
    return [words[at] for at in key_positions(words)]

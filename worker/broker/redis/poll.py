"""A poll of all consumed queues: the command that reserves the next message, prepared as bytes.

A worker polls for each message, and with a thousand queues the command names four thousand keys. Only two
of its arguments change from one poll to the next, so the rest is encoded once, when the set of queues
changes.
"""

from bisect import bisect
from collections.abc import Callable
from itertools import accumulate
from time import time
from typing import Any

from worker.broker.redis.set_aside import SET_ASIDE
from worker.queues import CHANGES_QUEUE
from worker.store.scripts import Script

POLL_INTERVAL_SECONDS = 0.02
"""Between two polls of empty queues: a hundredth of a core, and 10 ms of latency on average."""
POLL_INTERVAL_SECONDS_PER_KEY = 50e-6
"""At least, for each list that Redis looks at (measured: 0.4 ms for a thousand). An idle worker so takes a
hundredth of Redis's time, however many queues there are."""

LAST_SEQUENCE_NUMBER = "audience.sequence"
"""The key in the broker's Redis."""

RESERVE = Script(__package__, "reserve")


class Poll:
    """`reserve.lua` for these queues, served in turn: the round-robin cursor says whose turn it is."""

    def __init__(
        self,
        queues: list[str],
        keys: list[list[str]],
        unacked: tuple[str, str],
        clock: Callable[[], float] = time,
    ) -> None:
        """`keys` are the lists of each queue, `unacked` the index and the hash of the unacknowledged."""
        self.queues = queues
        self.interval = max(POLL_INTERVAL_SECONDS, sum(map(len, keys)) * POLL_INTERVAL_SECONDS_PER_KEY)
        """Seconds until the next poll where this one found nothing."""
        self._clock = clock
        self._starts = list(accumulate(map(len, keys), initial=0))
        lists = (key for keys_of_queue in keys for key in keys_of_queue)
        flat = [*unacked, LAST_SEQUENCE_NUMBER, SET_ASIDE, *lists]
        arguments = ("EVAL", RESERVE.text, len(flat), *flat)
        self._prefix = b"*%d\r\n" % (len(arguments) + 3) + _encode(*arguments)

    def command(self, cursor: int) -> list[bytes]:
        """The command in Redis's protocol, beginning with the queue at the cursor."""
        start = self._starts[cursor % len(self.queues)]
        return [self._prefix + _encode(self._clock(), start, CHANGES_QUEUE)]

    def locate(self, key: int) -> tuple[str, int]:
        """The queue of the key that had a message, and the next cursor: that of the queue behind it.

        Where the queue is cancelled meanwhile, the cursor skips one queue, and none is served for ever.
        """
        position = bisect(self._starts, key) - 1
        return self.queues[position], position + 1


def _encode(*arguments: Any) -> bytes:
    """Arguments as bulk strings of Redis's protocol."""
    encoded = [str(argument).encode() for argument in arguments]
    return b"".join(b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in encoded)

"""A poll: the command that reserves the next message, as bytes, and the answer to it.

A worker polls for each message, so the parts of the command that do not change are encoded once.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from worker.broker.redis.delivery_runs import NO_RUN, DeliveryLimit, ReservedDelivery
from worker.broker.redis.index import INDEX_KEYS
from worker.broker.redis.message import decode
from worker.broker.redis.set_aside import SET_ASIDE
from worker.broker.runs import RUN_BYTES, RUN_MESSAGE_BYTES
from worker.privacy import without_content
from worker.queues import CHANGES_QUEUE, RUN_MESSAGES, STREAM_QUEUE_PREFIX, is_stream_queue
from worker.store.scripts import Script

POLL_INTERVAL_SECONDS = 0.01
"""Between two polls of empty queues: 5 ms of latency on average."""
WAITING_POLL_INTERVAL_SECONDS = 0.02
"""Between two polls while the worker waits for changes besides: a hundredth of a core."""
POLLS_BEFORE_WAIT = 5
"""That find nothing, in a row: each message wakes all waiting workers, so busy workers do not wait."""

LAST_SEQUENCE_NUMBER = "audience.sequence"
"""The key in the broker's Redis."""
NO_ENTRY_SEEN = -1
"""In place of the last entry of the index, for a worker that has just begun to consume."""
ARGUMENTS = 8
"""Arguments of the script, behind its keys; `LIMITS` more follow for each list to reserve from."""
LIMITS = len(DeliveryLimit._fields)

RESERVE = Script(__package__, "reserve")


class Poll(NamedTuple):
    """The queues that a poll looks at."""

    reserving: Sequence[str]
    """A message is reserved from the first of these that holds one."""
    sweeping: Sequence[str]
    """The answer names the streams' queues among these that hold messages."""
    last_entry: int
    """The last entry of the index that the worker has seen."""


class Reservation(NamedTuple):
    """A message that was popped and recorded as unacknowledged, or a run of them."""

    queue: str
    message: str
    """Empty for a run."""
    tags: Sequence[str]
    """Its delivery tag, or those of a run's messages."""
    is_last: bool
    """Whether its list is empty now."""
    deliveries: Sequence[ReservedDelivery] = ()
    """The messages of a run of deliveries; empty for any other."""

    def __repr__(self) -> str:
        return without_content(self, "queue", "tags")


class Answer(NamedTuple):
    """The answer to a poll."""

    last_entry: int
    """The last entry of the index that the worker has seen now."""
    non_empty: Sequence[str]
    """Queues, by the index or the sweep."""
    empty: Sequence[str]
    """Queues that a message was to be reserved from."""
    reserved: Reservation | None


class PollCommands:
    """Encodes polls, and reads the replies to them."""

    def __init__(
        self,
        lists_of: Callable[[str], list[str]],
        unacked: tuple[str, str],
        run_messages: int = RUN_MESSAGES,
    ) -> None:
        """`lists_of` names a queue's lists, `unacked` the index and the hash of unacknowledged messages.

        `run_messages` is how many messages of changes a run holds at most.
        """
        self._lists_of = lists_of
        self.delivery_limit: Callable[[str], DeliveryLimit] = lambda queue: NO_RUN
        """Looks up what a run of a stream's queue holds at most."""
        self._keys = (*unacked, LAST_SEQUENCE_NUMBER, SET_ASIDE, *INDEX_KEYS)
        self._encoded_keys = _encode(*self._keys)
        self._encoded_names = _encode(CHANGES_QUEUE, f"{STREAM_QUEUE_PREFIX}.")
        self._encoded_run_limits = _encode(*map(str, (run_messages, RUN_BYTES, RUN_MESSAGE_BYTES)))
        self._is_loaded = False
        """Whether the server knows the script by its digest."""
        self._by_digest = _encode("EVALSHA", RESERVE.digest)
        self._by_text = _encode("EVAL", RESERVE.text)
        self._lists: dict[str, tuple[int, bytes]] = {}
        """By queue, how many lists it has, and their names as the command holds them."""

    def add(self, queue: str) -> None:
        """Encode the names of a queue's lists."""
        lists = self._lists_of(queue)
        self._lists[queue] = len(lists), _encode(*lists)

    def remove(self, queue: str) -> None:
        """Forget a queue."""
        self._lists.pop(queue, None)

    def encode(self, poll: Poll, now: str) -> bytes:
        """The command in Redis's protocol, in one piece: each piece would be a packet.

        What it reserves is recorded under the time `now` (Unix seconds).
        """
        reserving = [self._lists[queue] for queue in poll.reserving]
        lists = sum([count for count, _ in reserving])
        keys = len(self._keys) + lists + len(poll.sweeping)
        return b"".join(
            [
                b"*%d\r\n" % (3 + keys + ARGUMENTS + LIMITS * lists),
                self._by_digest if self._is_loaded else self._by_text,
                _bulk(b"%d" % keys),
                self._encoded_keys,
                *[names for _, names in reserving],
                *[self._lists[queue][1] for queue in poll.sweeping],
                _bulk(now.encode()),
                self._encoded_names,
                _bulk(b"%d" % lists),
                _bulk(b"%d" % poll.last_entry),
                self._encoded_run_limits,
                *[self._encoded_limit(queue) for queue in poll.reserving],
            ]
        )

    def _encoded_limit(self, queue: str) -> bytes:
        if is_stream_queue(queue):
            return _encode_limit(self.delivery_limit(queue))
        return _encode_limit(NO_RUN) * self._lists[queue][0]

    def forget_script(self) -> None:
        """Send the script's text again: the server does not know its digest."""
        self._is_loaded = False

    def read(self, poll: Poll, reply: list[Any]) -> Answer:
        """The reply to a poll."""
        self._is_loaded = True
        last_entry, added, found, *reserved = reply
        non_empty = [*map(decode, added), *(poll.sweeping[position] for position in found)]
        if not reserved:
            return Answer(last_entry, non_empty, poll.reserving, None)
        queue, is_last, message, *tags = reserved
        deliveries: list[ReservedDelivery] = []
        if isinstance(tags[0], list):
            deliveries = [ReservedDelivery(decode(tag), *costs) for tag, *costs in tags]
            tags = [each.tag for each in deliveries]
        reservation = Reservation(
            decode(queue), decode(message), [decode(tag) for tag in tags], bool(is_last), deliveries
        )
        return Answer(
            last_entry, non_empty, poll.reserving[: poll.reserving.index(reservation.queue)], reservation
        )


@lru_cache
def _encode_limit(limit: DeliveryLimit) -> bytes:
    return _encode(*map(str, limit))


def _encode(*words: str) -> bytes:
    """Words as bulk strings of Redis's protocol."""
    return b"".join(_bulk(word.encode()) for word in words)


def _bulk(word: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(word), word)

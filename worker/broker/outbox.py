"""The outbox: what runs over RabbitMQ have made, in the state, until RabbitMQ has it.

RabbitMQ cannot publish some messages and end others atomically. So a run stores what it made, and that its
own messages are completed, atomically in the state. Then it publishes what it made, removes it here, and its
messages are acknowledged last. If its process is lost in between, its messages come back, and whoever has one
of them publishes what is in the outbox: the same messages under the same IDs, so each is delivered once.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import orjson
from redis import Redis

from worker.broker.runs import HandOver, Obstacle
from worker.privacy import without_content
from worker.store.atomic import atomically
from worker.store.scripts import Script
from worker.store.windows import Windows

OUTBOX = "audience:outbox"
"""By ID of a run: the messages that it made, their counts, and the keys of its own messages, JSON."""
PENDING = "audience:outbox:messages"
"""By idempotency key of a message: the ID of its run in the outbox."""
COMPLETED_IN_STATE = "audience:completed"
"""By window of time: a set of the idempotency keys of the messages that runs have completed."""

STORE = Script(__package__, "store_in_outbox")
REPLACE = Script(__package__, "replace_in_outbox")


class Entry(NamedTuple):
    """A run in the outbox."""

    messages: Sequence[tuple[str, str]]
    """The messages that it made, each with its queue."""
    counts: str
    """Its counts, which the counters of the streams are to receive."""
    completed: Sequence[bytes]
    """The idempotency keys of its own messages."""

    def __repr__(self) -> str:
        return without_content(self)

    def as_json(self) -> bytes:
        """The run as the state has it."""
        return orjson.dumps([list(self.messages), self.counts, [key.hex() for key in self.completed]])


class Outbox:
    """The runs that are handed over, and the messages that are completed. Raises `RedisError`."""

    def __init__(
        self,
        redis: Redis,
        *,
        window_seconds: int,
        alone_keys: Callable[[Sequence[bytes]], list[str]],
        record_counts: Callable[[str, str], None],
    ) -> None:
        """`window_seconds` is a quarter of the time for which a completed message is remembered.

        `alone_keys` names the keys of which one exists while a message is run alone, and afterwards, two
        for each. `record_counts` records the counts of a run by its ID, once.
        """
        self._redis = redis
        self._completed = Windows(COMPLETED_IN_STATE, window_seconds)
        self._alone_keys = alone_keys
        self._record_counts = record_counts

    def now(self) -> int:
        """Unix seconds of the server's clock, which all workers share."""
        seconds, _ = self._redis.time()
        return int(seconds)

    def store(self, run: HandOver, now: int) -> tuple[dict[str, Obstacle], dict[str, list[str]]]:
        """Store a run, atomically; or do nothing, and name the messages that cannot be completed.

        Also returns, by the ID of a run that is still in the outbox, those of the messages that are its.
        """
        tags, keys = list(run.completed), list(run.completed.values())
        windows = self._completed.keys(now)
        entry = Entry(run.messages, run.counts, keys)
        answer = STORE(
            self._redis,
            keys=[OUTBOX, PENDING, *windows, *self._alone_keys(keys)],
            args=[run.run_id, entry.as_json(), self._completed.keep_seconds, len(windows), *keys],
        )
        obstacles: dict[str, Obstacle] = {}
        pending: dict[str, list[str]] = {}
        for position, reason in zip(answer[::2], answer[1::2], strict=True):
            if isinstance(reason, str):
                obstacles[tags[position]] = Obstacle.COMPLETED
                pending.setdefault(reason, []).append(tags[position])
            else:
                obstacles[tags[position]] = Obstacle(reason)
        return obstacles, pending

    def run_ids(self) -> set[str]:
        """The IDs of the runs in the outbox."""
        return set(self._redis.hkeys(OUTBOX))

    def entry(self, run_id: str) -> Entry | None:
        """A run in the outbox; None where it was removed."""
        text = self._redis.hget(OUTBOX, run_id)
        if text is None:
            return None
        messages, counts, keys = orjson.loads(text)
        return Entry(
            [(queue, message) for queue, message in messages], counts, list(map(bytes.fromhex, keys))
        )

    def keep(self, run_id: str, messages: Sequence[tuple[str, str]]) -> None:
        """Keep these alone of what a run made: RabbitMQ has the others."""
        entry = self.entry(run_id)
        if entry is not None:
            REPLACE(self._redis, keys=[OUTBOX], args=[run_id, entry._replace(messages=messages).as_json()])

    def record_counts(self, run_id: str, entry: Entry) -> None:
        """Record the counts of a run that another process has stored."""
        self._record_counts(run_id, entry.counts)

    def remove(self, run_id: str, completed: Sequence[bytes]) -> None:
        """Remove a run: RabbitMQ has what it made. Its messages stay completed."""
        atomically(self._redis, partial(_remove, run_id=run_id, completed=completed))

    def remove_late(self, run_id: str, completed: Sequence[bytes]) -> None:
        """Remove a run that was stored at any time before. Its messages count as completed now."""
        current, *_ = self._completed.keys(self.now())

        def commands(pipe: Redis) -> None:
            _remove(pipe, run_id, completed)
            if completed:
                pipe.sadd(current, *completed)
                pipe.expire(current, self._completed.keep_seconds)

        atomically(self._redis, commands)

    def run_of(self, key: bytes) -> str | None:
        """The run in the outbox, if any, that has completed the message with this idempotency key."""
        run_id: str | None = self._redis.hget(PENDING, key)
        return run_id

    def is_completed(self, key: bytes) -> bool:
        """Whether a run has completed the message with this idempotency key."""
        with self._redis.pipeline(transaction=False) as pipe:
            for window in self._completed.keys(self.now()):
                pipe.sismember(window, key)
            return any(pipe.execute())


def _remove(pipe: Redis, run_id: str, completed: Sequence[bytes]) -> None:
    pipe.hdel(OUTBOX, run_id)
    if completed:
        pipe.hdel(PENDING, *completed)

"""Dead letters: messages that failed for good, kept until an operator replays or discards them.

A dead letter holds the task, the queue and the arguments of its message, with the records that were
not delivered. Replaying it sends that message again.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar
from uuid import NAMESPACE_OID, uuid5

from redis import Redis
from redis.exceptions import RedisError

from worker.errors import NotRegistered, OperatorError
from worker.failures.alert_types import AlertType, Failure
from worker.failures.alerts import (
    DEAD_LETTERS,
    DEAD_MESSAGES,
    DEAD_RECORDS,
    LETTER_ALERTS,
    PENDING_LETTERS,
    STATES,
    AlertState,
    Letter,
)
from worker.queues import Stream, is_stream_queue, stream_of
from worker.state.counters import counters_key
from worker.store.atomic import atomically
from worker.store.entries import entries, entry, number
from worker.store.scripts import Script

BYTES = "audience:dead-letters:bytes"
"""Followed by a dead letter's ID: the bytes of a large malformed message, as they came."""
LETTERS_FIELD = "#letters"
"""The field of DEAD_RECORDS that holds the number of letters: other versions of this program do not count."""
REMOVED_LETTERS = 500
"""Letters that one script removes, in a few milliseconds."""
REMOVE_DEAD_LETTERS = Script(__package__, "remove_dead_letters")
T = TypeVar("T")

MALFORMED = ""
"""The task of a malformed message, which was no task call."""


class KeptBytes(NamedTuple):
    """Bytes that a dead letter refers to, because they are too many to be part of it."""

    key: str
    """In the Redis of AUDIENCE_REDIS_URL, a string."""
    length: int


@dataclass(frozen=True)
class Message:
    """A task call. Its arguments hold records, so `repr` does not show them."""

    task: str
    queue: str
    kwargs: dict[str, Any]
    args: list[Any] = field(default_factory=list)
    sequence: str | None = None
    """The number that it was stamped with, which a replay keeps."""

    def __repr__(self) -> str:
        return f"<Message for {self.task} in {self.queue}>"


@dataclass(frozen=True)
class DeadLetter:
    """The description of a dead letter. The records themselves are in its message."""

    id: str
    type: str
    """The type of its alert."""
    raised_at: str
    """UTC, ISO 8601."""
    error_code: str
    message: str
    attempts: int
    records: int
    queue: str
    configuration: str | None
    region: str | None
    delivery_stream_name: str | None
    connection_ids: list[str]
    audience_ids: list[int]

    @property
    def replayable(self) -> bool:
        """Whether sending it again can ever succeed. A type that this version does not know may."""
        alert_type = AlertType.named(self.type)
        return alert_type is None or alert_type.replayable

    @property
    def stream(self) -> Stream | None:
        """The stream its records are for; None where they did not get as far."""
        if self.configuration and self.region and self.delivery_stream_name:
            return Stream(self.configuration, self.region, self.delivery_stream_name)
        return None

    @property
    def replay_id(self) -> str:
        """The ID of the message that replays it: the same one, however often it is sent."""
        return str(uuid5(NAMESPACE_OID, f"replay:{self.id}"))


class DeadLetters:
    """The letters, by ID. The ID derives from the failed message, so storing it twice stores one letter."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def holds(self, identifier: str) -> bool:
        """Whether there is such a letter."""
        return bool(self._redis.hexists(DEAD_LETTERS, identifier))

    def all(self) -> list[DeadLetter]:
        """Every letter, oldest first."""
        letters = entries(DeadLetter, self._redis.hvals(DEAD_LETTERS))
        return sorted(letters, key=lambda letter: letter.raised_at)

    def get(self, identifier: str) -> DeadLetter:
        """A letter by its ID. Raises `NotRegistered`."""
        text = self._redis.hget(DEAD_LETTERS, identifier)
        if text is None:
            raise NotRegistered(
                f"there is no dead letter {identifier!r}; list them: audience-firehose dead-letters"
            )
        return _readable(DeadLetter, text, identifier)

    def message(self, letter: DeadLetter) -> Message:
        """Read a letter's message. Raises `NotRegistered` where somebody else has just removed it."""
        text = self._redis.hget(DEAD_MESSAGES, letter.id)
        if text is None:
            raise NotRegistered(f"the dead letter {letter.id!r} has just been replayed or discarded")
        return _readable(Message, text, letter.id)

    def keep_bytes(self, identifier: str, parts: Iterable[bytes]) -> KeptBytes:
        """Keep the bytes of a message that is about to become the letter of this ID.

        Keeping them again, at once or later, keeps the same. Raises `RedisError`.
        """
        key, length = _bytes_key(identifier), 0
        for part in parts:
            self._redis.setrange(key, length, part)
            length += len(part)
        return KeptBytes(key, length)

    def find(self, query: "Query") -> list[DeadLetter]:
        """The letters that a query asks for, oldest first."""
        return [letter for letter in self.all() if query.asks_for(letter)]

    def remove(self, letter: DeadLetter) -> bool:
        """Remove a letter that was replayed, and resolve its alert. False where it was gone."""
        return bool(self.remove_many([letter]))

    def remove_many(self, letters: Sequence[DeadLetter], *, discarded: bool = False) -> set[str]:
        """Remove letters, and resolve the alerts that have none left. Their records may count as discarded.

        Returns the IDs of those that were still there.
        """
        by_stream: defaultdict[Stream | None, list[DeadLetter]] = defaultdict(list)
        for letter in letters:
            by_stream[letter.stream].append(letter)
        removed: set[str] = set()
        for stream, found in by_stream.items():
            for start in range(0, len(found), REMOVED_LETTERS):
                removed |= self._remove(stream, found[start : start + REMOVED_LETTERS], discarded)
        return removed

    def _remove(self, stream: Stream | None, letters: Sequence[DeadLetter], discarded: bool) -> set[str]:
        queue = stream.queue if stream else ""
        counters = counters_key(stream)
        pairs = [part for letter in letters for part in (letter.id, letter.records)]
        keys = [DEAD_LETTERS, DEAD_MESSAGES, DEAD_RECORDS, LETTER_ALERTS, PENDING_LETTERS, STATES, counters]
        keys += [_bytes_key(letter.id) for letter in letters]
        args = [queue, int(discarded), AlertState.RESOLVED.value, *pairs]
        return set(REMOVE_DEAD_LETTERS(self._redis, keys=keys, args=args))

    def records_by_stream(self) -> Counter[Stream | None]:
        """The number of dead records, by stream; by None, of those without one.

        Reads counters, and the letters themselves only where the counters are not of the present letters.
        """
        with self._redis.pipeline(transaction=False) as pipe:
            letters, counted = pipe.hlen(DEAD_LETTERS).hgetall(DEAD_RECORDS).execute()
        if number(counted.pop(LETTERS_FIELD, None)) != letters:
            return self._count_records()
        return Counter(
            {
                stream_of(queue) if queue else None: number(records)
                for queue, records in counted.items()
                if number(records) > 0 and (not queue or is_stream_queue(queue))
            }
        )

    def _count_records(self) -> Counter[Stream | None]:
        """Count the records of all letters, and store the numbers."""
        texts = self._redis.hvals(DEAD_LETTERS)
        dead: Counter[Stream | None] = Counter()
        for letter in entries(DeadLetter, texts):
            dead[letter.stream] += letter.records
        counted = {stream.queue if stream else "": records for stream, records in dead.items()}
        with suppress(RedisError):
            atomically(
                self._redis,
                lambda pipe: pipe.delete(DEAD_RECORDS).hset(
                    DEAD_RECORDS, mapping={LETTERS_FIELD: len(texts), **counted}
                ),
            )
        return dead


@dataclass(frozen=True)
class Query:
    """A choice of dead letters. A field that is None or empty chooses all."""

    type: str | None = None
    connection_id: str | None = None
    stream: str | None = None
    """A delivery stream's name, or a stream's queue."""
    since: str | None = None
    """UTC, ISO 8601, of the earliest."""
    until: str | None = None
    """UTC, ISO 8601, of the first that is too late."""

    def asks_for(self, letter: DeadLetter) -> bool:
        """Whether a letter is among those that it chooses."""
        queue = letter.stream.queue if letter.stream else None
        return (
            (not self.type or self.type == letter.type)
            and (not self.connection_id or self.connection_id in letter.connection_ids)
            and (not self.stream or self.stream in (letter.delivery_stream_name, queue))
            and (not self.since or letter.raised_at >= self.since)
            and (not self.until or letter.raised_at < self.until)
        )


def make_letter(
    identifier: str,
    message: Message,
    failure: Failure,
    raised_at: float,
    *,
    records: int,
    stream: Stream | None = None,
    connection_ids: Collection[str] = (),
    audience_ids: Collection[int] = (),
    attempts: int = 1,
) -> Letter:
    """Make the stored form of a dead letter that is raised at a time (Unix seconds)."""
    letter = DeadLetter(
        id=identifier,
        type=failure.alert_type,
        raised_at=datetime.fromtimestamp(raised_at, UTC).isoformat(timespec="milliseconds"),
        error_code=failure.error_code,
        message=failure.message,
        attempts=attempts,
        records=records,
        queue=message.queue,
        configuration=stream.configuration if stream else None,
        region=stream.region if stream else None,
        delivery_stream_name=stream.name if stream else None,
        connection_ids=sorted(connection_ids),
        audience_ids=sorted(audience_ids),
    )
    return Letter(
        id=identifier,
        entry=json.dumps(asdict(letter)),
        # Not `asdict`, which copies what may be nested more deeply than it can go.
        message=json.dumps(_stored(message)),
        queue=stream.queue if stream else "",
        records=records,
    )


def _bytes_key(identifier: str) -> str:
    return f"{BYTES}:{identifier}"


def _stored(message: Message) -> dict[str, Any]:
    """A message's entry. The version before this one reads all but those with a number."""
    return {name: value for name, value in vars(message).items() if name != "sequence" or value}


def _readable(kind: type[T], text: str, identifier: str) -> T:
    """Read an entry. Raises `OperatorError` where it is corrupt."""
    found = entry(kind, text)
    if found is None:
        raise OperatorError(
            f"the dead letter {identifier!r} cannot be read; look into Redis: {DEAD_MESSAGES}"
        )
    return found

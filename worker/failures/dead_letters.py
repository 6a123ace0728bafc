"""Records that could not be delivered, kept until an operator replays or discards them.

A dead letter is the message that failed, reduced to what was not delivered: its task,
its queue and its arguments. Replaying it is sending it again.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import NAMESPACE_OID, uuid5

from redis import Redis

from worker.errors import NotRegistered, OperatorError
from worker.failures.alert_types import AlertType, Failure
from worker.queues import Stream
from worker.store.atomic import in_one_step
from worker.store.entries import entries, entry

DEAD_LETTERS = "audience:dead-letters"
MESSAGES = "audience:dead-letters:messages"
T = TypeVar("T")

FOREIGN = ""
"""The task of a message that was no task call."""


@dataclass(frozen=True)
class Message:
    """A task call. Its arguments hold records, so `repr` does not show them."""

    task: str
    queue: str
    kwargs: dict[str, Any]
    args: list[Any] = field(default_factory=list)

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
    """The letters, by ID. Each has the ID of what failed, so that keeping it twice is keeping it once."""

    def __init__(self, redis: Redis, clock: Callable[[], float]) -> None:
        self._redis = redis
        self._clock = clock

    def store(
        self,
        pipe: Redis,
        identifier: str,
        message: Message,
        failure: Failure,
        *,
        records: int,
        stream: Stream | None = None,
        connection_ids: Collection[str] = (),
        audience_ids: Collection[int] = (),
        attempts: int = 1,
    ) -> None:
        """Keep a message; the commands go into `pipe`."""
        letter = DeadLetter(
            id=identifier,
            type=failure.alert_type,
            raised_at=datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds"),
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
        # Not `asdict`, which copies what may be nested more deeply than it can go.
        pipe.hset(MESSAGES, identifier, json.dumps(vars(message)))
        pipe.hset(DEAD_LETTERS, identifier, json.dumps(asdict(letter)))

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
        text = self._redis.hget(MESSAGES, letter.id)
        if text is None:
            raise NotRegistered(f"the dead letter {letter.id!r} has just been replayed or discarded")
        return _readable(Message, text, letter.id)

    def remove(self, letter: DeadLetter) -> bool:
        """Forget a letter: it is in the broker again, or nobody wants it. False where it was gone."""
        removed, _ = in_one_step(
            self._redis, lambda pipe: pipe.hdel(DEAD_LETTERS, letter.id).hdel(MESSAGES, letter.id)
        )
        return bool(removed)

    def records_by_stream(self) -> Counter[Stream | None]:
        """How many records lie dead, of each stream and of none."""
        dead: Counter[Stream | None] = Counter()
        for letter in self.all():
            dead[letter.stream] += letter.records
        return dead


def _readable(kind: type[T], text: str, identifier: str) -> T:
    """Read an entry. Raises `OperatorError` where it is corrupt."""
    found = entry(kind, text)
    if found is None:
        raise OperatorError(f"the dead letter {identifier!r} cannot be read; look into Redis: {MESSAGES}")
    return found

"""The one way out of delivery: each message that fails for good becomes a dead letter here.

The dead letter and its alert are stored atomically. The worker acknowledges the failed message
only afterwards, so its records are always in the broker or in the dead letters.
"""

from collections.abc import Collection
from dataclasses import dataclass

from redis import Redis

from worker.errors import NotRegistered
from worker.failures.alert_types import Failure
from worker.failures.alerts import Alerts
from worker.failures.dead_letters import DeadLetter, DeadLetters, Message
from worker.queues import Stream
from worker.state.counters import Counters
from worker.store.atomic import in_one_step


@dataclass(frozen=True)
class Undeliverable:
    """A message that cannot be delivered, and why."""

    id: str
    """The ID of its dead letter: the same one where the message fails again before it is acknowledged."""
    message: Message
    failure: Failure
    records: int
    stream: Stream | None = None
    connection_ids: Collection[str] = ()
    audience_ids: Collection[int] = ()
    attempts: int = 1


class DeadLettering:
    """Moves what cannot be delivered to the dead letters, and what nobody wants out of them."""

    def __init__(self, redis: Redis, dead_letters: DeadLetters, alerts: Alerts, counters: Counters) -> None:
        self._redis = redis
        self._dead_letters = dead_letters
        self._alerts = alerts
        self._counters = counters

    def dead_letter(self, undeliverable: Undeliverable, even_if_full: bool = False) -> None:
        """Store the dead letter and raise its alert: both or neither, and once.

        Raises `RedisError`, of a full Redis too unless it is to be stored `even_if_full`.
        """
        if self._dead_letters.holds(undeliverable.id):
            return

        def store_and_alert(pipe: Redis) -> None:
            self._dead_letters.store(
                pipe,
                undeliverable.id,
                undeliverable.message,
                undeliverable.failure,
                records=undeliverable.records,
                stream=undeliverable.stream,
                connection_ids=undeliverable.connection_ids,
                audience_ids=undeliverable.audience_ids,
                attempts=undeliverable.attempts,
            )
            self._alerts.raise_alert(
                undeliverable.failure,
                stream=undeliverable.stream,
                connection_ids=undeliverable.connection_ids,
                audience_ids=undeliverable.audience_ids,
                attempts=undeliverable.attempts,
                records=undeliverable.records,
                dead_letter_id=undeliverable.id,
                pipe=pipe,
            )

        in_one_step(self._redis, store_and_alert, even_if_full=even_if_full)

    def discard(self, letter: DeadLetter) -> None:
        """Remove a dead letter for good, at an operator's word.

        Raises `NotRegistered` where somebody else has replayed or discarded it meanwhile.
        """
        if not self._dead_letters.remove(letter):
            raise NotRegistered(f"the dead letter {letter.id!r} has just been replayed or discarded")
        if letter.stream:
            stream, records = letter.stream, letter.records
            in_one_step(self._redis, lambda pipe: self._counters.discarded(stream, records, pipe))
        self._alerts.resolve([letter.id])

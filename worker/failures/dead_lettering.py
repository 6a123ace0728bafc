"""Dead-lettering: the one way in which a delivery ends undelivered.

First the dead letter is stored, then the alert is raised. The message that failed is
acknowledged only afterwards, so its records are always somewhere.
"""

from collections.abc import Collection
from dataclasses import dataclass

from redis import Redis

from worker.errors import NotRegistered
from worker.failures.alert_types import Failure
from worker.failures.dead_letters import DeadLetter, Message
from worker.queues import Stream
from worker.services import Services
from worker.store.atomic import in_one_step


@dataclass(frozen=True)
class Undeliverable:
    """A message that cannot be delivered, with the reason and its stream."""

    id: str
    """The same one if the message fails again before it is acknowledged."""
    message: Message
    failure: Failure
    records: int
    stream: Stream | None = None
    connection_ids: Collection[str] = ()
    audience_ids: Collection[int] = ()
    attempts: int = 1


def discard(services: Services, letter: DeadLetter) -> None:
    """Forget a dead letter for good, at an operator's word.

    Raises `NotRegistered` where somebody else has replayed or discarded it meanwhile.
    """
    if not services.dead_letters.remove(letter):
        raise NotRegistered(f"the dead letter {letter.id!r} has just been replayed or discarded")
    if letter.stream:
        stream, records = letter.stream, letter.records
        in_one_step(services.redis, lambda pipe: services.counters.discarded(stream, records, pipe))
    services.alerts.resolve([letter.id])


def dead_letter(services: Services, undeliverable: Undeliverable, even_if_full: bool = False) -> None:
    """Keep the message as a dead letter and tell the operators, both or neither, and once.

    Raises `RedisError`, of a full Redis too unless it is to be `even_if_full`.
    """
    if services.dead_letters.holds(undeliverable.id):
        return

    def entries(pipe: Redis) -> None:
        services.dead_letters.store(
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
        services.alerts.raise_alert(
            undeliverable.failure,
            stream=undeliverable.stream,
            connection_ids=undeliverable.connection_ids,
            audience_ids=undeliverable.audience_ids,
            attempts=undeliverable.attempts,
            records=undeliverable.records,
            dead_letter_id=undeliverable.id,
            pipe=pipe,
        )

    in_one_step(services.redis, entries, even_if_full=even_if_full)

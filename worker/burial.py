"""The one door out: whatever ends a delivery for good goes through here.

First the dead letter is stored, then the alert is raised. The message that failed is
acknowledged only afterwards, so its records are always somewhere.
"""

from collections.abc import Collection
from dataclasses import dataclass

from redis import Redis

from worker.errors import NotRegistered
from worker.failures import Failure
from worker.queues import Stream
from worker.redis_steps import in_one_step
from worker.state import State
from worker.state.dead_letters import DeadLetter, Message


@dataclass(frozen=True)
class Case:
    """What is known of a message that cannot be delivered."""

    id: str
    """The same one if the message fails again before it is acknowledged."""
    message: Message
    failure: Failure
    records: int
    stream: Stream | None = None
    connection_ids: Collection[str] = ()
    audience_ids: Collection[int] = ()
    attempts: int = 1


def discard(state: State, letter: DeadLetter) -> None:
    """Forget a dead letter for good, at an operator's word.

    Raises `NotRegistered` where somebody else has replayed or discarded it meanwhile.
    """
    if not state.dead_letters.remove(letter):
        raise NotRegistered(f"the dead letter {letter.id!r} has just been replayed or discarded")
    if letter.stream:
        stream, records = letter.stream, letter.records
        in_one_step(state.redis, lambda pipe: state.counters.discarded(stream, records, pipe))
    state.alerts.resolve([letter.id])


def bury(state: State, case: Case, even_if_full: bool = False) -> None:
    """Keep the message as a dead letter and tell the operators, both or neither, and once.

    Raises `RedisError`, of a full Redis too unless it is to be `even_if_full`.
    """
    if state.dead_letters.holds(case.id):
        return

    def entries(pipe: Redis) -> None:
        state.dead_letters.store(
            pipe,
            case.id,
            case.message,
            case.failure,
            records=case.records,
            stream=case.stream,
            connection_ids=case.connection_ids,
            audience_ids=case.audience_ids,
            attempts=case.attempts,
        )
        state.alerts.raise_alert(
            case.failure,
            stream=case.stream,
            connection_ids=case.connection_ids,
            audience_ids=case.audience_ids,
            attempts=case.attempts,
            records=case.records,
            dead_letter_id=case.id,
            pipe=pipe,
        )

    in_one_step(state.redis, entries, even_if_full=even_if_full)

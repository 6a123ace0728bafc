"""The one way out of delivery: each message that fails for good becomes a dead letter here.

The dead letter and its alert are stored atomically. The worker acknowledges the failed message
only afterwards, so its records are always in the broker or in the dead letters.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from worker.errors import NotRegistered
from worker.failures.alert_types import Failure
from worker.failures.alerts import Alerts, Cause
from worker.failures.dead_letters import REMOVED_LETTERS, DeadLetter, DeadLetters, Message, make_letter
from worker.queues import Stream


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
    cause: Cause | None = None
    """The message's task, ID and sender, where they are known."""


class DeadLettering:
    """Moves messages to the dead letters, and out of them those that nobody wants."""

    def __init__(self, dead_letters: DeadLetters, alerts: Alerts, clock: Callable[[], float]) -> None:
        self._dead_letters = dead_letters
        self._alerts = alerts
        self._clock = clock

    def dead_letter(self, undeliverable: Undeliverable, even_if_full: bool = False) -> None:
        """Store the dead letter and raise its alert: both or neither, and once.

        Raises `RedisError`, of a full Redis too unless it is to be stored `even_if_full`.
        """
        about: dict[str, Any] = {
            "records": undeliverable.records,
            "stream": undeliverable.stream,
            "connection_ids": undeliverable.connection_ids,
            "audience_ids": undeliverable.audience_ids,
            "attempts": undeliverable.attempts,
        }
        failure = undeliverable.failure
        letter = make_letter(undeliverable.id, undeliverable.message, failure, self._clock(), **about)
        self._alerts.raise_alert(
            failure, letter=letter, cause=undeliverable.cause, even_if_full=even_if_full, **about
        )

    def discard(self, letter: DeadLetter) -> None:
        """Remove a dead letter for good, at an operator's word.

        Raises `NotRegistered` where somebody else has replayed or discarded it meanwhile.
        """
        if not self.discard_many([letter]):
            raise NotRegistered(f"the dead letter {letter.id!r} has just been replayed or discarded")

    def discard_many(
        self, letters: Sequence[DeadLetter], on_progress: Callable[[int], object] = lambda _: None
    ) -> set[str]:
        """Remove dead letters for good, and count their records as discarded.

        Calls `on_progress` with the number of letters of each step. Returns the IDs of those that were
        still there. Whoever interrupts it between two steps leaves the other letters as they were.
        """
        discarded: set[str] = set()
        for start in range(0, len(letters), REMOVED_LETTERS):
            step = letters[start : start + REMOVED_LETTERS]
            discarded |= self._dead_letters.remove_many(step, discarded=True)
            on_progress(len(step))
        self._alerts.resolve(discarded)
        return discarded

"""Replay of dead letters.

A letter is sent before it is removed, under an ID that derives from the letter's. An operator who is
interrupted in between and replays it again sends the same message, which is delivered once.
"""

from collections.abc import Callable, Iterable, Set

from worker.broker.client import Sender
from worker.errors import OperatorError
from worker.failures.dead_letters import MALFORMED, DeadLetter, DeadLetters, Message
from worker.queues import Stream, is_stream_queue
from worker.state.registry import Registry


class NotReplayable(OperatorError):
    """Sending this dead letter again cannot succeed."""


class Replayer:
    """Sends dead letters to their queues again."""

    def __init__(self, dead_letters: DeadLetters, registry: Registry) -> None:
        self._dead_letters = dead_letters
        self._registry = registry

    def replay(self, sender: Sender, letter: DeadLetter) -> None:
        """Send the letter's message, then remove the letter and resolve its alert.

        Raises `NotReplayable`, and `NotRegistered` where somebody else has just removed it.
        """
        message = self._dead_letters.message(letter)
        if problem := obstacle(letter, message, self._registry.snapshot().streams):
            raise NotReplayable(f"{letter.id}: {problem}")
        sender.send(
            message.task,
            message.kwargs,
            args=message.args,
            queue=message.queue,
            task_id=letter.replay_id,
            sequence=message.sequence,
        )
        self._dead_letters.remove(letter)

    def replay_many(
        self,
        sender: Sender,
        letters: Iterable[DeadLetter],
        on_progress: Callable[[DeadLetter, OperatorError | None], object],
    ) -> None:
        """Send the letters again, one after the other, without those that cannot be replayed.

        Calls `on_progress` after each, with the reason where it was left.
        """
        for letter in letters:
            problem: OperatorError | None = None
            try:
                self.replay(sender, letter)
            except OperatorError as error:
                problem = error
            on_progress(letter, problem)


def obstacle(letter: DeadLetter, message: Message, streams: Set[Stream]) -> str | None:
    """The reason why sending the letter again cannot succeed while these streams are registered, or None."""
    if message.task == MALFORMED or not message.queue:
        return "it was no call of a task, so nothing can take it; see who sent it, then discard it"
    if not letter.replayable:
        return f"{letter.message}; shorten it where it comes from, then discard it"
    if is_stream_queue(message.queue) and message.queue not in {stream.queue for stream in streams}:
        return f"no connection is registered for {message.queue}; connect it again, then replay"
    return None

"""Replay of dead letters.

A letter is sent before it is removed, and under an ID of its own that does not change:
whoever is interrupted in between, and soon replays it once more, delivers nothing twice.
"""

from collections.abc import Set

from worker.broker.client import Sender
from worker.errors import OperatorError
from worker.failures.dead_letters import FOREIGN, DeadLetter, Message
from worker.queues import Stream, is_stream_queue
from worker.services import Services


class NotReplayable(OperatorError):
    """Sending this dead letter again cannot succeed."""


def replay(services: Services, sender: Sender, letter: DeadLetter) -> None:
    """Send what the letter keeps, and forget the letter. Its alert is the caller's to resolve.

    Raises `NotReplayable`, and `NotRegistered` where somebody else has just removed it.
    """
    message = services.dead_letters.message(letter)
    if problem := obstacle(letter, message, services.registry.snapshot().streams):
        raise NotReplayable(f"{letter.id}: {problem}")
    sender.send(
        message.task, message.kwargs, args=message.args, queue=message.queue, task_id=letter.replay_id
    )
    services.dead_letters.remove(letter)


def obstacle(letter: DeadLetter, message: Message, streams: Set[Stream]) -> str | None:
    """Why sending the letter again cannot succeed, while these streams are registered."""
    if message.task == FOREIGN or not message.queue:
        return "it was no call of a task, so nothing can take it; see who sent it, then discard it"
    if not letter.replayable:
        return f"{letter.message}; shorten it where it comes from, then discard it"
    if is_stream_queue(message.queue) and message.queue not in {stream.queue for stream in streams}:
        return f"no connection is registered for {message.queue}; connect it again, then replay"
    return None

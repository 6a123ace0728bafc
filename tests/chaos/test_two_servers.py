"""Broker and state on two servers: at each moment of a batch, something happens to one of them.

The moments follow each other in one worker, each with an audience of its own. A test asserts, for all of
them, what is lost and what is repeated.
"""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from chaos import HASTE, in_full
from full_size import FULL
from redis.exceptions import RedisError
from stack import Audience, Stack
from stopping_point import BEGINS, ENDED, HANDED_OVER, SENT, StoppingPoint
from two_servers import Server, two_servers, until_noticed
from waiting import eventually

from devstack import processes
from devstack.firehose import Answer, error, fail, refuse_once
from worker.broker.client import sender
from worker.errors import OperatorError
from worker.flow.circuit_breakers import OPERATOR
from worker.queues import CHANGES_QUEUE, FORWARD_RUN, delivery_task

CUSTOMERS = tuple(f"customer-{number}" for number in range(20))
DELIVER = delivery_task("us-east-1")
BROKER, STATE = "broker", "state"


@dataclass
class Story:
    """A worker between two servers, and the one to which something happens."""

    stack: Stack
    servers: dict[str, Server]
    name: str
    stopping_point: StoppingPoint
    start: Callable[[], processes.Process]
    audience: Audience = field(init=False)

    def __post_init__(self) -> None:
        self.worker = self.start()

    @property
    def server(self) -> Server:
        return self.servers[self.name]

    def send(self) -> None:
        """Enqueue a message, and note what the server holds before a worker has reserved it."""
        main = self.worker.pid
        os.kill(main, signal.SIGSTOP)
        self.stack.send(*self.audience.added(*CUSTOMERS))
        self.server.keep()
        os.kill(main, signal.SIGCONT)

    def is_idle(self) -> bool:
        """Whether the broker holds no message."""
        # Atomically: a message goes from a queue to `unacked`, and its batches into other queues.
        with self.servers[BROKER].client() as broker, broker.pipeline(transaction=True) as pipe:
            pipe.hlen("unacked").llen(CHANGES_QUEUE).llen(self.audience.stream.queue)
            return not any(pipe.execute())

    def replay(self, letter: Any, sent: Callable[[], None] = lambda: None) -> None:
        """Replay as an operator does; `sent` is called between the message and the removal of the letter."""
        with sender(self.stack.caller) as broker:
            self.stack.services.replayer.replay(_Sender(broker, sent), letter)

    def outcome_of(self, moment: Any, fault: Any) -> tuple[int, int]:
        """Have something happen at a moment. Returns how many customers are lost, and repeated."""
        self.audience = self.stack.audience()
        moment(self, fault)
        fault.heal(self)
        return self.end()

    def end(self) -> tuple[int, int]:
        """Deliver what is left, dead letters too. Returns how many customers are lost, and repeated."""
        self.stack.firehose.faults.clear()
        self.stack.services.circuit_breakers.resume(self.audience.stream)
        eventually(self.is_idle, what="the broker's emptiness")
        for letter in self.audience.letters():
            self.replay(letter)
        eventually(self.is_idle, what="the broker's emptiness after the replay")
        arrived = self.audience.customers()
        return len(set(CUSTOMERS) - set(arrived)), len(arrived) - len(set(arrived))


class _Sender:
    """Calls something after each message that it has sent."""

    def __init__(self, broker, sent):
        self._broker, self._sent = broker, sent

    def send(self, *args, **options):
        self._broker.send(*args, **options)
        self._sent()


# What may happen: `strike` while the worker stands at the moment, `heal` once it goes on.


class Killed:
    """The server is killed, and started again on its file."""

    def strike(self, story):
        story.server.kill()

    def heal(self, story):
        pass


class Frozen:
    """The server hangs until the worker has found out."""

    def strike(self, story):
        self._wait = until_noticed(story.worker.output, story.name)
        story.server.freeze()

    def heal(self, story):
        try:
            self._wait()
        finally:
            story.server.thaw()


class FailedOver:
    """A replica is promoted that has received nothing since the caller's message."""

    def strike(self, story):
        story.server.roll_back()

    def heal(self, story):
        pass


class Restored:
    """The worker dies, and starts again when the server is restored from a backup of before."""

    def strike(self, story):
        story.worker.kill()
        story.server.roll_back()

    def heal(self, story):
        story.worker = story.start()


# The moments of a batch.


def reserved(story, fault):
    story.stopping_point.arm(BEGINS, FORWARD_RUN)
    story.send()
    with story.stopping_point.stopped():
        fault.strike(story)


def batch_made(story, fault):
    story.stopping_point.arm(SENT, DELIVER)
    story.send()
    with story.stopping_point.stopped():
        fault.strike(story)


def handed_over(story, fault):
    story.stopping_point.arm(HANDED_OVER, FORWARD_RUN)
    story.send()
    with story.stopping_point.stopped():
        fault.strike(story)


def lease_acquired(story, fault):
    with held_call(story, None):
        fault.strike(story)


def put_done(story, fault):
    go = threading.Event()
    with held_call(story, Answer(wait=go), go):
        fault.strike(story)


@contextmanager
def held_call(story, answer, go=None):
    """A call of Firehose is under way: it has the records and has not answered, or it has nothing yet."""
    came, go = threading.Event(), go or threading.Event()

    def hold(call):
        if came.is_set() or call.stream_name != story.audience.stream.name:
            return None
        came.set()
        if answer is None:
            go.wait()
        return answer

    story.stack.firehose.faults.append(hold)
    story.send()
    try:
        eventually(came.is_set, what="a call of Firehose")
        yield
    finally:
        go.set()


def retry_sent(story, fault):
    breakers, stream = story.stack.services.circuit_breakers, story.audience.stream
    breakers.pause(stream, OPERATOR)
    story.send()
    eventually(story.audience.waiting)
    eventually(lambda: story.stack.services.counters.of(stream).enqueued == len(CUSTOMERS))
    story.server.keep()
    story.stack.firehose.faults.append(refuse_once(CUSTOMERS[-1].encode()))
    story.stopping_point.arm(SENT, DELIVER)
    breakers.resume(stream)
    with story.stopping_point.stopped():
        fault.strike(story)


def recorded(story, fault):
    story.stopping_point.arm(ENDED, DELIVER)
    story.send()
    with story.stopping_point.stopped():
        fault.strike(story)


def dead_letter_stored(story, fault):
    story.stack.firehose.faults.append(fail(error("ResourceNotFoundException")))
    story.stopping_point.arm(ENDED, DELIVER)
    story.send()
    with story.stopping_point.stopped():
        fault.strike(story)


def replay(story, fault):
    story.stack.firehose.faults.append(fail(error("ResourceNotFoundException")))
    story.send()
    (letter,) = eventually(story.audience.letters)
    eventually(story.is_idle)
    story.stack.firehose.faults.clear()
    story.server.keep()
    # Where the server hangs, the operator sees an error, and repeats the command.
    with suppress(RedisError, OperatorError):
        story.replay(letter, lambda: fault.strike(story))


MOMENTS = (
    reserved,
    batch_made,
    handed_over,
    lease_acquired,
    put_done,
    retry_sent,
    recorded,
    dead_letter_stored,
    replay,
)
BRIEF = {Frozen: (handed_over,), Restored: (put_done,)}
"""The moments in `make test`, where they are not all."""
LOST = {
    # The promoted replica lacks what was written last, and the other server has forgotten what it replaced:
    # docs/high-availability.md says so. AUDIENCE_REDIS_WAIT_REPLICAS is for them.
    (BROKER, FailedOver, replay),
    (STATE, FailedOver, dead_letter_stored),
    # What was replayed since the backup.
    (BROKER, Restored, replay),
}


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        *((STATE, Killed), (BROKER, Frozen), (STATE, FailedOver), (BROKER, Restored)),
        *in_full((BROKER, Killed), (STATE, Frozen), (BROKER, FailedOver), (STATE, Restored)),
    ],
)
def test_something_happens_to_one_of_two_servers_at_each_moment_of_a_batch(name, fault, tmp_path):
    moments = MOMENTS if FULL else BRIEF.get(fault, MOMENTS)
    with two_servers(tmp_path) as (stack, servers), ExitStack() as workers:
        stopping_point = StoppingPoint(tmp_path)

        def start():
            options = ("--concurrency", "2", "--without-mingle", "--include", "stopping_point")
            worker = stack.worker(*options, env=HASTE | stopping_point.environment)
            started = workers.enter_context(worker)
            workers.callback(started.kill)
            return started

        story = Story(stack, servers, name, stopping_point, start)
        outcomes = {moment.__name__: story.outcome_of(moment, fault()) for moment in moments}
    expected = {moment.__name__: len(CUSTOMERS) if (name, fault, moment) in LOST else 0 for moment in moments}
    assert {moment: lost for moment, (lost, _) in outcomes.items()} == expected
    assert all(repeated <= len(CUSTOMERS) for _, repeated in outcomes.values()), outcomes

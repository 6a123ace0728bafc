"""Which queues a worker polls: each that holds messages in turn, and a bounded number at once."""

from itertools import pairwise

import pytest
from clock import Clock

from worker.broker.redis.poll import Answer, PollCommands, Reservation
from worker.broker.redis.rotation import RESERVING_QUEUES, SWEEPING_QUEUES, Rotation
from worker.queues import CHANGES_QUEUE


class Broker:
    """Queues with a number of messages each, which answers polls as `reserve.lua` does."""

    def __init__(self, **messages):
        self.messages = messages
        self.added = []

    def answer(self, poll):
        added, self.added = self.added, []
        found = [queue for queue in poll.sweeping if self.messages.get(queue)]
        for position, queue in enumerate(poll.reserving):
            if self.messages.get(queue):
                self.messages[queue] -= 1
                reserved = Reservation(queue, "message", "tag", is_last=not self.messages[queue])
                return Answer(0, added + found, poll.reserving[:position], reserved)
        return Answer(0, added + found, poll.reserving, None)


class Worker:
    """Polls a broker with a rotation."""

    def __init__(self, broker, queues):
        self.clock = Clock()
        self.rotation = Rotation(self.clock)
        self.broker = broker
        for queue in queues:
            self.rotation.add(queue)

    def poll(self):
        """The queue of the message that a poll has reserved; None where it has found none."""
        self.clock.advance(1)
        answer = self.broker.answer(self.rotation.next_poll())
        self.rotation.learn(answer)
        return answer.reserved.queue if answer.reserved else None

    def empty(self):
        """Poll until nothing is left; the queues in the order in which they were served."""
        served = []
        while (queue := self.poll()) or self.rotation.has_stream_candidates:
            served += [queue] if queue else []
        return served


def streams(count):
    return [f"firehose.main.us-east-1.stream-{number:05}" for number in range(count)]


@pytest.mark.parametrize("count", [1, RESERVING_QUEUES, 3 * RESERVING_QUEUES + 1])
def test_the_streams_queues_that_hold_messages_are_served_in_turn(count):
    queues = streams(count)
    worker = Worker(Broker(**dict.fromkeys(queues, 3)), [CHANGES_QUEUE, *queues])
    served = worker.empty()
    rounds = [set(served[start : start + count]) for start in range(0, len(served), count)]
    assert rounds == [set(queues)] * 3


@pytest.mark.parametrize("count", [1, RESERVING_QUEUES, 3 * RESERVING_QUEUES + 1])
def test_changes_have_every_second_turn_while_streams_queues_hold_messages(count):
    queues = streams(count)
    worker = Worker(Broker(**dict.fromkeys([CHANGES_QUEUE, *queues], 3)), [CHANGES_QUEUE, *queues])
    assert [queue == CHANGES_QUEUE for queue in worker.empty()[:5]] == [True, False, True, False, True]


def test_the_other_queues_share_their_turns():
    (stream,) = streams(1)
    worker = Worker(Broker(**{CHANGES_QUEUE: 9, "celery": 9, stream: 9}), [CHANGES_QUEUE, "celery", stream])
    assert [worker.poll() for _ in range(4)] == [CHANGES_QUEUE, stream, "celery", stream]


def test_many_other_queues_leave_the_streams_their_turn():
    (stream,) = streams(1)
    others = [f"other-{number}" for number in range(RESERVING_QUEUES + 1)]
    worker = Worker(Broker(**{stream: 3}), [*others, stream])
    assert stream in {worker.poll() for _ in range(2)}


def test_a_queue_with_a_long_backlog_does_not_hold_up_one_that_gets_a_message_now_and_then():
    busy, quiet = streams(2)
    broker = Broker(**{busy: 1000, quiet: 0})
    worker = Worker(broker, [CHANGES_QUEUE, busy, quiet])
    for _ in range(10):
        worker.poll()
    for _ in range(5):
        broker.messages[quiet], broker.added = 1, [quiet]
        assert quiet in {worker.poll() for _ in range(3)}


def test_changes_wait_for_a_turn_at_most_while_the_index_keeps_adding_queues():
    names = streams(100)
    broker = Broker(**{CHANGES_QUEUE: 0})
    worker = Worker(broker, [CHANGES_QUEUE, *names])
    worker.empty()
    served = []
    for number in range(500):
        broker.messages[CHANGES_QUEUE] = 1
        queue = names[number % len(names)]
        broker.messages[queue], broker.added = 1, [queue]
        served.append(worker.poll())
    turns = [number for number, queue in enumerate(served) if queue == CHANGES_QUEUE]
    assert max(later - earlier for earlier, later in pairwise([*turns, len(served)])) <= 2


def test_a_worker_that_begins_finds_each_queue_that_holds_messages_without_index_or_sweep():
    names = streams(10 * RESERVING_QUEUES)
    worker = Worker(Broker(**{names[-1]: 1, CHANGES_QUEUE: 1}), [CHANGES_QUEUE, *names])
    worker.rotation.next_poll()
    assert sorted(worker.empty()) == [CHANGES_QUEUE, names[-1]]


def test_a_worker_that_has_found_every_queue_empty_awaits_the_poll_interval():
    worker = Worker(Broker(), [CHANGES_QUEUE, *streams(2 * RESERVING_QUEUES)])
    assert worker.rotation.has_stream_candidates
    worker.poll()
    worker.poll()
    worker.poll()
    assert not worker.rotation.has_stream_candidates


def test_the_sweep_finds_each_queue_that_the_index_lacks():
    names = streams(3 * SWEEPING_QUEUES)
    broker = Broker()
    worker = Worker(broker, [CHANGES_QUEUE, *names])
    worker.empty()
    broker.messages |= dict.fromkeys(names, 1)
    served = [worker.poll() for _ in range(len(names) + 3)]
    assert set(names) <= set(served)


def test_a_busy_worker_sweeps_too():
    busy, lacking = streams(2)
    broker = Broker(**{busy: 1000})
    worker = Worker(broker, [busy, lacking])
    worker.poll()
    worker.poll()
    broker.messages[lacking] = 1
    assert lacking in {worker.poll() for _ in range(3)}


def test_a_worker_that_polls_all_the_time_sweeps_only_now_and_then():
    rotation = Rotation(Clock())
    rotation.add(streams(1)[0])
    rotation.learn(Answer(0, [], streams(1), None))
    assert [bool(rotation.next_poll().sweeping) for _ in range(3)] == [True, False, False]


def test_what_the_index_says_of_queues_that_a_worker_does_not_consume_is_left_to_others():
    consumed, other = streams(2)
    worker = Worker(Broker(**{other: 1}), [consumed])
    worker.broker.added = [other]
    assert worker.empty() == []


def test_a_queue_that_is_cancelled_is_not_polled_and_one_that_is_consumed_again_is():
    (queue,) = streams(1)
    worker = Worker(Broker(**{queue: 2}), [CHANGES_QUEUE, queue])
    worker.rotation.remove(queue)
    assert worker.empty() == []
    worker.rotation.add(queue)
    assert worker.empty() == [queue, queue]


def test_a_queue_that_is_cancelled_while_a_poll_of_it_is_outstanding_stays_out():
    (queue,) = streams(1)
    broker = Broker(**{queue: 2})
    rotation = Worker(broker, [queue]).rotation
    answer = broker.answer(rotation.next_poll())
    rotation.remove(queue)
    rotation.learn(answer._replace(non_empty=[queue]))
    assert not rotation.next_poll().reserving


@pytest.mark.parametrize("is_idle", [True, False])
def test_a_poll_has_the_same_size_with_a_hundred_and_with_ten_thousand_streams(is_idle):
    def size(count):
        queues = [CHANGES_QUEUE, *streams(count)]
        worker = Worker(Broker(), queues)
        if is_idle:
            worker.empty()
            worker.clock.advance(1)
        commands = PollCommands(lambda queue: [queue], ("unacked_index", "unacked"))
        for queue in queues:
            commands.add(queue)
        return len(commands.encode(worker.rotation.next_poll(), "1800000000.000000"))

    assert size(100) == size(10_000)

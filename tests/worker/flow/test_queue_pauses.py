"""A queue is consumed again when no reason to pause it is left."""

import pytest
from flow import StreamQueues

from worker.flow.queue_pauses import QueuePauses

QUEUE, OTHER = "firehose.main.us-east-1.travel", "firehose.main.us-east-1.cruises"


class Timer:
    """Makes each call once its time has come, or a little too early."""

    def __init__(self, clock):
        self._clock = clock
        self._calls = []

    def call_after(self, seconds, function, args):
        self._calls.append((self._clock.now + seconds, function, args))

    def advance(self, seconds):
        self._clock.advance(seconds)
        due = [call for call in self._calls if call[0] <= self._clock.now + 0.001]
        self._calls = [call for call in self._calls if call not in due]
        for _, function, args in due:
            function(*args)


@pytest.fixture
def queues():
    return StreamQueues()


@pytest.fixture
def timer(clock):
    return Timer(clock)


@pytest.fixture
def pauses(queues, timer, clock):
    return QueuePauses(queues, timer, clock)


def test_a_pause_ends_at_its_time(pauses, queues, timer):
    pauses.pause_for(QUEUE, "quota", 1)
    timer.advance(0.5)
    assert queues.paused == {QUEUE}
    timer.advance(0.5)
    assert not queues.paused


def test_a_pause_ends_although_its_timer_fires_a_little_too_early(pauses, queues, timer):
    pauses.pause_for(QUEUE, "quota", 1)
    timer.advance(0.9995)
    assert not queues.paused


def test_a_longer_pause_for_the_same_reason_outlasts_a_shorter_one(pauses, queues, timer):
    pauses.pause_for(QUEUE, "quota", 2)
    pauses.pause_for(QUEUE, "quota", 1)
    timer.advance(1)
    assert queues.paused == {QUEUE}
    timer.advance(1)
    assert not queues.paused


def test_a_queue_waits_for_its_last_reason(pauses, queues, timer):
    pauses.pause(QUEUE, "concurrency")
    pauses.pause_for(QUEUE, "quota", 1)
    timer.advance(1)
    assert queues.paused == {QUEUE}
    pauses.end(QUEUE, "concurrency")
    assert not queues.paused


def test_a_reason_that_ends_before_its_time_ends_no_other(pauses, queues, timer):
    pauses.pause_for(QUEUE, "rate limit", 2)
    pauses.pause_for(OTHER, "rate limit", 2)
    pauses.pause_for(QUEUE, "quota", 1)
    pauses.end_all("rate limit")
    assert queues.paused == {QUEUE}
    timer.advance(1)
    assert not queues.paused


def test_the_timer_of_a_reason_that_has_ended_does_not_resume_a_later_pause(pauses, queues, timer):
    pauses.pause_for(QUEUE, "rate limit", 1)
    pauses.end_all("rate limit")
    pauses.pause_for(QUEUE, "rate limit", 3)
    timer.advance(1)
    assert queues.paused == {QUEUE}
    assert pauses.count("rate limit") == 1
    timer.advance(2)
    assert not queues.paused
    assert pauses.count("rate limit") == 0


def test_a_pause_whose_timer_was_lost_does_not_outlast_its_time(pauses, queues, clock):
    pauses.pause_for(QUEUE, "quota", 1)
    pauses.pause(QUEUE, "concurrency")
    clock.advance(1)
    assert not pauses.has(QUEUE, "quota")
    pauses.end(QUEUE, "concurrency")
    assert not queues.paused

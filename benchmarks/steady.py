"""Changes sent to a fixed schedule, and how long each was on its way."""

import random
import time
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

from celery import Celery

from benchmarks.changes import change
from benchmarks.firehose import Call
from benchmarks.messages import Load
from benchmarks.stack import Stack

SINGLES = Load()
GRACE_SECONDS = 30.0
"""Seconds after the last was sent. A change that has not arrived by then counts with this latency."""


class Due(NamedTuple):
    """A message of one change to be sent."""

    after: float
    """Seconds from the beginning."""
    audience: int


def evenly(audiences: Sequence[int], each: float, seconds: float) -> list[Due]:
    """So many messages a second for each of these audiences, never two at once."""
    step = 1 / each / len(audiences)
    count = round(seconds / step)
    return [Due(number * step, audiences[number % len(audiences)]) for number in range(count)]


def alone(audience: int, gap: float, messages: int) -> list[Due]:
    """So many messages, each long after the one before: `gap` seconds, and up to half as much again.

    The gaps differ, so that no worker's own rhythm decides when in it a message arrives.
    """
    gaps = [gap * (1 + random.random() / 2) for _ in range(messages)]
    return [Due(after, audience) for after in accumulate(gaps)]


def latencies(
    stack: Stack, schedule: Iterable[Due], audiences: set[int], skip: float, load: Load = SINGLES
) -> list[float]:
    """Seconds from sending to acceptance, of each message for one of these audiences.

    Those that are sent in the first `skip` seconds are not counted. The streams of these
    audiences must behave with `keep`.
    """
    sent = _send(stack, sorted(schedule), audiences, load)
    arrived = _arrivals(stack, set(sent))
    first = min(sent.values()) + skip
    missing = time.monotonic()
    return [arrived.get(number, missing) - moment for number, moment in sent.items() if moment >= first]


def _send(stack: Stack, schedule: list[Due], audiences: set[int], load: Load) -> dict[int, float]:
    """Send all at their times; when each was sent, by its number."""
    app, sent = Celery("another-app", broker=stack.env["CELERY_BROKER_URL"]), {}
    start = time.monotonic()
    for number, due in enumerate(schedule):
        time.sleep(max(start + due.after - time.monotonic(), 0))
        # Its number is its time: that is in the record, and no two have the same.
        content = {**change(number, due.audience), "timestamp": number}
        moment = time.monotonic()
        app.send_task(load.task, kwargs=load.with_changes([content]), queue=load.queue, ignore_result=True)
        if due.audience in audiences:
            sent[number] = moment
    return sent


def _arrivals(stack: Stack, expected: set[int]) -> dict[int, float]:
    """When each was first accepted; those are missing that were not in time."""
    arrived: dict[int, float] = {}
    deadline = time.monotonic() + GRACE_SECONDS
    while not expected <= arrived.keys() and time.monotonic() < deadline:
        for call in stack.firehose.calls():
            for number in _numbers(call):
                arrived.setdefault(number, call.moment)
        time.sleep(0.1)
    return arrived


def _numbers(call: Call) -> list[int]:
    return [int(line["MembershipChangedTimestamp"]) for line in call.lines()] if call.accepted else []

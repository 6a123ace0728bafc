"""Which streams are closed, why, and for how long. Every worker sees the same gates.

A gate is closed in one of two ways: until somebody resumes it, or until a time. After that
time one batch probes the stream: it opens the gate, or has it closed again for longer. What
a closed stream has to deliver waits in its queue.
"""

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from redis import Redis

from worker.queues import Stream, is_stream_queue
from worker.redis_steps import BEGIN, in_one_step
from worker.state.entries import entry

GATES = "audience:gates"
"""Closed until resumed, by queue."""
TIMED_GATES = "audience:gates:timed"
"""Closed until a time, by queue."""
OPERATOR = "operator"
UNREADABLE = "unreadable"

DOUBLINGS = 16
"""Of how long a gate is closed, while one failure follows the other."""

FAIL = (
    BEGIN
    + """
local text = redis.call('HGET', KEYS[1], ARGV[1])
local now, known, gate = tonumber(ARGV[2]), pcall(cjson.decode, text or '')
if not known or type(gate) ~= 'table' then gate = {since = ARGV[4]} end
local failures, closed_until = tonumber(gate['failures']) or 0, tonumber(gate['until']) or 0
if gate['probing'] ~= true and closed_until > now then return failures end
gate['failures'] = failures + 1
local closings = cjson.decode(ARGV[5])
gate['until'] = now + closings[math.min(gate['failures'], #closings)]
gate['reason'], gate['probing'] = ARGV[3], false
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(gate))
return gate['failures']
"""
)
"""One failure more, unless the gate is closed already: what was on its way as it closed tells nothing new."""


NOT_PROBED = (
    BEGIN
    + """
local text = redis.call('HGET', KEYS[1], ARGV[1])
local known, gate = pcall(cjson.decode, text or '')
if not known or type(gate) ~= 'table' or gate['probing'] ~= true then return end
gate['until'], gate['probing'] = tonumber(ARGV[2]), false
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(gate))
"""
)


class Gate(NamedTuple):
    """A closed stream."""

    reason: str
    """An alert's type, `operator`, or `unreadable` where somebody spoilt the entry."""
    since: str
    """UTC, ISO 8601; empty where the entry is unreadable."""
    until: float | int | None = None
    """Unix seconds; None where it is closed until it is resumed."""
    failures: int = 0
    """In a row: the one that closed it, and each probe's since then."""
    probing: bool = False
    """Whether a batch is trying the stream; `until` is when another one may."""

    def is_closed(self, now: float) -> bool:
        """Whether no batch may try the stream now."""
        return self.until is None or now < self.until

    def is_tried(self, now: float) -> bool:
        """Whether a batch tries the stream now, or the next one will."""
        return self.until is not None and (self.probing or not self.is_closed(now))

    @property
    def closed_until(self) -> str | None:
        """UTC, ISO 8601; None where it is closed until it is resumed."""
        return None if self.until is None else _utc(self.until)


class Gates:
    """Closed streams, by their queue. A stream without an entry flows."""

    def __init__(
        self,
        redis: Redis,
        clock: Callable[[], float],
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._redis = redis
        self._clock = clock
        self._jitter = jitter
        self._fail = redis.register_script(FAIL)
        self._not_probed = redis.register_script(NOT_PROBED)

    def close(self, stream: Stream, reason: str) -> None:
        """Stop consuming the stream's queue until it is opened."""
        gate = {"reason": reason, "since": self._now()}
        in_one_step(self._redis, lambda pipe: pipe.hset(GATES, stream.queue, json.dumps(gate)))

    def failed(self, stream: Stream, reason: str, first: float, longest: float) -> int:
        """The stream took little or nothing of a batch: close it for a while. How often it failed in a row.

        Each failure in a row doubles the while, from `first` to `longest` seconds, of which chance
        takes up to a half.
        """
        closings = [min(first * 2**n, longest) * self._jitter(0.5, 1) for n in range(DOUBLINGS)]
        call = (stream.queue, self._clock(), reason, self._now(), json.dumps(closings))
        return int(self._fail(keys=[TIMED_GATES], args=call))

    def succeeded(self, stream: Stream, pipe: Redis) -> None:
        """The stream took something: it flows, unless it is closed until somebody resumes it."""
        pipe.hdel(TIMED_GATES, stream.queue)

    def not_probed(self, stream: Stream) -> None:
        """There was nothing to put: where that was to probe the stream, the next batch may."""
        self._not_probed(keys=[TIMED_GATES], args=[stream.queue, self._clock()])

    def open(self, stream: Stream) -> bool:
        """Let the stream flow. False where it already did."""
        queue = stream.queue
        return any(in_one_step(self._redis, lambda pipe: pipe.hdel(GATES, queue).hdel(TIMED_GATES, queue)))

    def get(self, stream: Stream) -> Gate | None:
        """The stream's gate, or None where it flows."""
        with self._redis.pipeline(transaction=False) as pipe:
            found = pipe.hget(GATES, stream.queue).hget(TIMED_GATES, stream.queue).execute()
        return next((_read(text) for text in found if text is not None), None)

    def all(self) -> dict[str, Gate]:
        """All gates, by queue: of closed streams, and of those that are or may be probed."""
        with self._redis.pipeline(transaction=False) as pipe:
            resumed, timed = pipe.hgetall(GATES).hgetall(TIMED_GATES).execute()
        return {queue: _read(gate) for queue, gate in (timed | resumed).items() if is_stream_queue(queue)}

    def closed(self) -> dict[str, Gate]:
        """The gates of streams that no batch may try now, by queue."""
        now = self._clock()
        return {queue: gate for queue, gate in self.all().items() if gate.is_closed(now)}

    def _now(self) -> str:
        return _utc(self._clock())


def _read(text: str) -> Gate:
    """A gate that cannot be read is closed all the same: somebody has meant it to be."""
    gate = entry(Gate, text)
    return gate if gate and _tells_times(gate) else Gate(UNREADABLE, "")


def _tells_times(gate: Gate) -> bool:
    try:
        datetime.fromisoformat(gate.since).astimezone(UTC)
        _utc(gate.until or 0)
    except (ValueError, OverflowError, OSError):
        return False
    return True


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")

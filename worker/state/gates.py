"""Which streams are closed, why, and for how long. Every worker sees the same gates.

A gate is closed in one of two ways: until somebody resumes it, or until a time. After that
time one batch probes the stream: it opens the gate, or has it closed again for longer. What
a closed stream has to deliver waits in its queue.
"""

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
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
FURTHEST = 600.0
"""Seconds. No gate is closed until a time that far away: a clock that wrote one has been put back since."""
KEPT = 10_000
"""Gates that a process need not read anew each second."""

CLOSE = (
    BEGIN
    + """
local queue, gate, reason, operator = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local known, before = pcall(cjson.decode, redis.call('HGET', KEYS[1], queue) or '')
local is_operators = known and type(before) == 'table' and before['reason'] == operator
if is_operators and reason ~= operator then return end
redis.call('HSET', KEYS[1], queue, gate)
"""
)
"""Close until resumed. What an operator has closed stays the operator's: no passing test opens it."""

PROBE = """
local known, gate = pcall(cjson.decode, redis.call('HGET', KEYS[1], ARGV[1]) or '')
local is_closed = known and type(gate) == 'table'
local prober = is_closed and gate['prober'] or ''
local is_probe = is_closed and gate['probing'] == true and (prober == '' or prober == ARGV[2])
"""
"""Whether the message of this ID is the stream's probe. It is where nobody knows which one is."""

FAIL = (
    BEGIN
    + PROBE
    + """
local now, reason, since, closings = tonumber(ARGV[3]), ARGV[4], ARGV[5], cjson.decode(ARGV[6])
if is_closed and not is_probe then return tonumber(gate['failures']) or 0 end
if not is_closed then gate = {since = since} end
gate['failures'] = (tonumber(gate['failures']) or 0) + 1
gate['until'] = now + closings[math.min(gate['failures'], #closings)]
gate['reason'], gate['probing'], gate['prober'] = reason, false, nil
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(gate))
return gate['failures']
"""
)
"""The first failure, or the probe's. What was on its way as the gate closed tells nothing new."""

NOT_PROBED = (
    BEGIN
    + PROBE
    + """
if not is_probe then return end
gate['until'], gate['probing'], gate['prober'] = tonumber(ARGV[3]), false, nil
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
    prober: str = ""
    """The ID of that batch's message; empty where it is not known."""

    def is_closed(self, now: float) -> bool:
        """Whether no batch may try the stream now."""
        return self.until is None or now < self.until <= now + FURTHEST

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
        self._close = redis.register_script(CLOSE)
        self._fail = redis.register_script(FAIL)
        self._not_probed = redis.register_script(NOT_PROBED)

    def close(self, stream: Stream, reason: str) -> None:
        """Stop consuming the stream's queue until it is opened; an operator's reason to do so stays."""
        gate = {"reason": reason, "since": self._now()}
        self._close(keys=[GATES], args=[stream.queue, json.dumps(gate), reason, OPERATOR])

    def failed(self, stream: Stream, reason: str, first: float, longest: float, message_id: str = "") -> int:
        """The stream took little or nothing of a message's batch: close it for a while. Returns how
        often it failed in a row.

        Each failure in a row doubles the while, from `first` to `longest` seconds, of which chance
        takes up to a half. Of a stream that is closed, or is being probed, only its probe's counts.
        """
        closings = [min(first * 2**n, longest) * self._jitter(0.5, 1) for n in range(DOUBLINGS)]
        call = (stream.queue, message_id, self._clock(), reason, self._now(), json.dumps(closings))
        return int(self._fail(keys=[TIMED_GATES], args=call))

    def succeeded(self, stream: Stream, pipe: Redis) -> None:
        """The stream took something: it flows, unless it is closed until somebody resumes it."""
        pipe.hdel(TIMED_GATES, stream.queue)

    def not_probed(self, stream: Stream, message_id: str = "") -> None:
        """The message's batch was not put: where it was to probe the stream, the next one may."""
        self._not_probed(keys=[TIMED_GATES], args=[stream.queue, message_id, self._clock()])

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


@lru_cache(KEPT)
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

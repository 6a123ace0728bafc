"""Which streams are closed, why, and for how long. Every worker sees the same breakers.

A breaker is closed in one of two ways: until somebody resumes it, or until a time. After that
time one batch probes the stream: it opens the breaker, or has it closed again for longer. What
a closed stream has to deliver waits in its queue.
"""

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from math import inf
from typing import NamedTuple

from redis import Redis

from worker.queues import Stream, is_stream_queue
from worker.store.atomic import BEGIN, in_one_step
from worker.store.entries import entry

PAUSED = "audience:gates"
"""Closed until resumed, by queue."""
OPEN = "audience:gates:timed"
"""Closed until a time, by queue."""
OPERATOR = "operator"
UNREADABLE = "unreadable"

DOUBLINGS = 16
"""Of how long a breaker is closed, while one failure follows the other."""
FURTHEST = 600.0
"""Seconds. No breaker is OPEN until a time that far away: the clock that wrote it was put back since."""
KEPT = 10_000
"""CircuitBreakers that a process need not read anew each second."""

PAUSE = (
    BEGIN
    + """
local queue, breaker, reason, operator = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local known, before = pcall(cjson.decode, redis.call('HGET', KEYS[1], queue) or '')
local is_operators = known and type(before) == 'table' and before['reason'] == operator
if is_operators and reason ~= operator then return end
redis.call('HSET', KEYS[1], queue, breaker)
"""
)
"""Close until resumed. What an operator has closed stays the operator's: no passing test opens it."""

PROBE = """
local known, breaker = pcall(cjson.decode, redis.call('HGET', KEYS[1], ARGV[1]) or '')
local is_closed = known and type(breaker) == 'table'
local prober = is_closed and breaker['prober'] or ''
local is_probe = is_closed and breaker['probing'] == true and (prober == '' or prober == ARGV[2])
"""
"""Whether the message of this ID is the stream's probe. It is where nobody knows which one is."""

FAIL = (
    BEGIN
    + PROBE
    + """
local now, reason, since, closings = tonumber(ARGV[3]), ARGV[4], ARGV[5], cjson.decode(ARGV[6])
if is_closed and not is_probe then return tonumber(breaker['failures']) or 0 end
if not is_closed then breaker = {since = since} end
breaker['failures'] = (tonumber(breaker['failures']) or 0) + 1
breaker['until'] = now + closings[math.min(breaker['failures'], #closings)]
breaker['reason'], breaker['probing'], breaker['prober'] = reason, false, nil
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(breaker))
return breaker['failures']
"""
)
"""The first failure, or the probe's. What was on its way as the breaker closed tells nothing new."""

RELEASE_PROBE = (
    BEGIN
    + PROBE
    + """
if not is_probe then return end
breaker['until'], breaker['probing'], breaker['prober'] = tonumber(ARGV[3]), false, nil
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(breaker))
"""
)


class CircuitBreaker(NamedTuple):
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

    def is_blocking(self, now: float) -> bool:
        """Whether no batch may try the stream now."""
        return self.until is None or now < self.until <= now + FURTHEST

    def is_being_probed(self, now: float) -> bool:
        """Whether a batch tries the stream now, or the next one will."""
        return self.until is not None and (self.probing or not self.is_blocking(now))

    @property
    def open_until(self) -> str | None:
        """UTC, ISO 8601; None where it is closed until it is resumed."""
        return None if self.until is None else _utc(self.until)


class CircuitBreakers:
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
        self._pause = redis.register_script(PAUSE)
        self._fail = redis.register_script(FAIL)
        self._release_probe = redis.register_script(RELEASE_PROBE)

    def pause(self, stream: Stream, reason: str) -> None:
        """Stop consuming the stream's queue until it is opened; an operator's reason to do so stays."""
        breaker = {"reason": reason, "since": self._now()}
        self._pause(keys=[PAUSED], args=[stream.queue, json.dumps(breaker), reason, OPERATOR])

    def record_failure(
        self, stream: Stream, reason: str, first: float, longest: float, message_id: str = ""
    ) -> int:
        """The stream took little or nothing of a message's batch: close it for a while. Returns how
        often it failed in a row.

        Each failure in a row doubles the while, from `first` to `longest` seconds, of which chance
        takes up to a half. Of a stream that is closed, or is being probed, only its probe's counts.
        """
        closings = [min(first * 2**n, longest) * self._jitter(0.5, 1) for n in range(DOUBLINGS)]
        call = (stream.queue, message_id, self._clock(), reason, self._now(), json.dumps(closings))
        return int(self._fail(keys=[OPEN], args=call))

    def record_success(self, stream: Stream, pipe: Redis) -> None:
        """The stream took something: it flows, unless it is closed until somebody resumes it."""
        pipe.hdel(OPEN, stream.queue)

    def release_probe(self, stream: Stream, message_id: str = "") -> None:
        """The message's batch was not put: where it was to probe the stream, the next one may."""
        self._release_probe(keys=[OPEN], args=[stream.queue, message_id, self._clock()])

    def resume(self, stream: Stream) -> bool:
        """Let the stream flow. False where it already did."""
        queue = stream.queue
        return any(in_one_step(self._redis, lambda pipe: pipe.hdel(PAUSED, queue).hdel(OPEN, queue)))

    def get(self, stream: Stream) -> CircuitBreaker | None:
        """The stream's breaker, or None where it flows."""
        with self._redis.pipeline(transaction=False) as pipe:
            found = pipe.hget(PAUSED, stream.queue).hget(OPEN, stream.queue).execute()
        return next((_read(text) for text in found if text is not None), None)

    def seconds_failing(self, stream: Stream) -> float:
        """Seconds since the failure that opened the breaker; infinite where it is CLOSED or PAUSED."""
        breaker = self.get(stream)
        if breaker is None or breaker.until is None:
            return inf
        return self._clock() - datetime.fromisoformat(breaker.since).timestamp()

    def all(self) -> dict[str, CircuitBreaker]:
        """All breakers, by queue: of closed streams, and of those that are or may be probed."""
        with self._redis.pipeline(transaction=False) as pipe:
            resumed, timed = pipe.hgetall(PAUSED).hgetall(OPEN).execute()
        return {
            queue: _read(breaker) for queue, breaker in (timed | resumed).items() if is_stream_queue(queue)
        }

    def blocking(self) -> dict[str, CircuitBreaker]:
        """The breakers of streams that no batch may try now, by queue."""
        now = self._clock()
        return {queue: breaker for queue, breaker in self.all().items() if breaker.is_blocking(now)}

    def _now(self) -> str:
        return _utc(self._clock())


@lru_cache(KEPT)
def _read(text: str) -> CircuitBreaker:
    """A breaker that cannot be read is closed all the same: somebody has meant it to be."""
    breaker = entry(CircuitBreaker, text)
    return breaker if breaker and _tells_times(breaker) else CircuitBreaker(UNREADABLE, "")


def _tells_times(breaker: CircuitBreaker) -> bool:
    try:
        datetime.fromisoformat(breaker.since).astimezone(UTC)
        _utc(breaker.until or 0)
    except (ValueError, OverflowError, OSError):
        return False
    return True


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")

"""Circuit breakers: which streams may take batches. They are in Redis, so that all workers see the same.

A stream's breaker is CLOSED while the stream takes what it is sent: batches flow. After a failure it is OPEN
until a time. Then it is HALF_OPEN, and one batch probes the stream: success closes the breaker, failure opens
it for longer. An operator, or a permanent refusal by AWS, makes it PAUSED until somebody resumes the stream.
The stream's batches wait in its queue meanwhile.
"""

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from math import inf
from typing import NamedTuple

from redis import Redis

from worker.queues import Stream, is_stream_queue
from worker.retry_policy import open_durations
from worker.store.atomic import WRITE_FIRST_KEY, atomically
from worker.store.entries import entry
from worker.store.scripts import Script

PAUSED_KEY = "audience:gates"
"""Hash: breakers that are PAUSED, as JSON, by queue."""
OPEN_KEY = "audience:gates:timed"
"""Hash: breakers that are OPEN or HALF_OPEN, as JSON, by queue."""
OPERATOR = "operator"
"""The reason of a breaker that an operator has paused."""
CORRUPT = "unreadable"
"""The reason of a breaker that was corrupted in Redis."""

LONGEST_OPEN_SECONDS = 600.0
"""No breaker opens until a time that is further away: the clock that wrote it was put back since."""
PARSED_BREAKERS_CACHED = 10_000
"""Each worker reads all breakers every second, and most have not changed."""

PAUSE = Script(__package__, "pause")
RECORD_FAILURE = Script(__package__, "record_failure")
RELEASE_PROBE = Script(__package__, "release_probe")
HALF_OPEN = Script(__package__, "half_open")


class CircuitState(StrEnum):
    """The states of a circuit breaker, under their usual names. CLOSED means that batches flow."""

    CLOSED = "closed"
    OPEN = "open"
    """No batch is sent until a time."""
    HALF_OPEN = "half-open"
    """A batch probes the stream, or the next one will."""
    PAUSED = "paused"
    """No batch is sent until somebody resumes the stream."""


class CircuitBreaker(NamedTuple):
    """A breaker that is not CLOSED. Its fields are those of its JSON in Redis."""

    reason: str
    """An alert's type, `OPERATOR` or `CORRUPT`."""
    since: str
    """UTC, ISO 8601; empty where the entry is corrupt."""
    until: float | int | None = None
    """Unix seconds; None while PAUSED."""
    failures: int = 0
    """In a row: the one that opened it, and each probe's since then."""
    probing: bool = False
    """Whether a probe is in flight; `until` is then the time at which it is taken for lost."""
    prober: str = ""
    """The ID of the probe's message; empty where it is not known."""

    def state(self, now: float) -> CircuitState:
        """OPEN, HALF_OPEN or PAUSED, at a time in Unix seconds."""
        if self.until is None:
            return CircuitState.PAUSED
        if self.probing or not self.is_blocking(now):
            return CircuitState.HALF_OPEN
        return CircuitState.OPEN

    def is_probe(self, message_id: str) -> bool:
        """Whether this message is the probe that is in flight."""
        return self.probing and self.prober == message_id

    def is_blocking(self, now: float) -> bool:
        """Whether no batch may be sent now, not even as a probe."""
        return self.until is None or now < self.until <= now + LONGEST_OPEN_SECONDS

    @property
    def is_paused(self) -> bool:
        """Whether somebody must resume the stream. If not, the breaker closes by itself."""
        return self.until is None

    @property
    def word(self) -> str:
        """The state in an operator's words: `paused` or `failing`."""
        return "paused" if self.is_paused else "failing"

    @property
    def open_until(self) -> str | None:
        """UTC, ISO 8601; None while PAUSED."""
        return None if self.until is None else _utc(self.until)


class CircuitBreakers:
    """The circuit breakers of all streams. A stream without an entry in Redis has a CLOSED one."""

    def __init__(
        self,
        redis: Redis,
        clock: Callable[[], float],
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._redis = redis
        self._clock = clock
        self._jitter = jitter

    def pause(self, stream: Stream, reason: str) -> None:
        """Pause a stream until it is resumed. Nothing replaces an operator's pause."""
        breaker = {"reason": reason, "since": self._now()}
        PAUSE(
            self._redis,
            keys=[PAUSED_KEY, WRITE_FIRST_KEY],
            args=[stream.queue, json.dumps(breaker), OPERATOR],
        )

    def record_failure(
        self, stream: Stream, reason: str, first: float, longest: float, message_id: str = ""
    ) -> int:
        """Open the breaker of a stream that took little or nothing of a message's batch.

        Returns the number of failures in a row.
        It opens for `first` seconds and for twice as long after each failed probe, up to `longest`; jitter
        takes up to half of that. While the breaker is not CLOSED, only the probe's failure counts.
        """
        durations = open_durations(first, longest, self._jitter)
        failures = RECORD_FAILURE(
            self._redis,
            keys=[OPEN_KEY, WRITE_FIRST_KEY],
            args=[stream.queue, message_id, self._clock(), reason, self._now(), json.dumps(durations)],
        )
        return int(failures)

    def record_success(self, stream: Stream, pipe: Redis) -> None:
        """Close the breaker of a stream that took a batch, unless it is PAUSED."""
        pipe.hdel(OPEN_KEY, stream.queue)

    def release_probe(self, stream: Stream, message_id: str = "") -> None:
        """Let the next batch probe the stream, if this message was the probe and was not sent."""
        RELEASE_PROBE(
            self._redis, keys=[OPEN_KEY, WRITE_FIRST_KEY], args=[stream.queue, message_id, self._clock()]
        )

    def half_open(self, stream: Stream) -> bool:
        """Let one batch probe a stream that a permanent refusal has paused; it keeps its reason.

        False where the stream is not paused, or was paused by an operator.
        """
        corrupt = {"reason": CORRUPT, "since": self._now()}
        changed = HALF_OPEN(
            self._redis,
            keys=[PAUSED_KEY, OPEN_KEY, WRITE_FIRST_KEY],
            args=[stream.queue, self._clock(), OPERATOR, json.dumps(corrupt)],
        )
        return bool(changed)

    def probe_now(self, stream: Stream) -> CircuitBreaker | None:
        """Have the next batch find out whether a stream flows again, without a wait: somebody has tested it.

        A stream that a permanent refusal has paused is probed by one batch, and a failing one takes batches
        again. An operator's pause stays. Returns the breaker as it was; None where it was CLOSED.
        """
        breaker = self.get(stream)
        if breaker and breaker.reason != OPERATOR and not self.half_open(stream):
            self.resume(stream)
        return breaker

    def resume(self, stream: Stream) -> bool:
        """Close a stream's breaker, whatever its state. False where it was CLOSED."""
        queue = stream.queue
        return any(atomically(self._redis, lambda pipe: pipe.hdel(PAUSED_KEY, queue).hdel(OPEN_KEY, queue)))

    def get(self, stream: Stream) -> CircuitBreaker | None:
        """The stream's breaker; None where it is CLOSED."""
        with self._redis.pipeline(transaction=False) as pipe:
            found = pipe.hget(PAUSED_KEY, stream.queue).hget(OPEN_KEY, stream.queue).execute()
        return next((_read(text) for text in found if text is not None), None)

    def state(self, stream: Stream) -> CircuitState:
        """The state of the stream's breaker now."""
        breaker = self.get(stream)
        return breaker.state(self._clock()) if breaker else CircuitState.CLOSED

    def seconds_failing(self, stream: Stream) -> float:
        """Seconds since the failure that opened the breaker; infinite where it is CLOSED or PAUSED."""
        breaker = self.get(stream)
        if breaker is None or breaker.is_paused:
            return inf
        return self._clock() - datetime.fromisoformat(breaker.since).timestamp()

    def all(self) -> dict[str, CircuitBreaker]:
        """All breakers that are not CLOSED, by queue."""
        with self._redis.pipeline(transaction=False) as pipe:
            paused, opened = pipe.hgetall(PAUSED_KEY).hgetall(OPEN_KEY).execute()
        return {queue: _read(text) for queue, text in (opened | paused).items() if is_stream_queue(queue)}

    def blocking(self) -> dict[str, CircuitBreaker]:
        """The breakers of streams that no batch may be sent to now, by queue."""
        now = self._clock()
        return {queue: breaker for queue, breaker in self.all().items() if breaker.is_blocking(now)}

    def _now(self) -> str:
        return _utc(self._clock())


@lru_cache(PARSED_BREAKERS_CACHED)
def _read(text: str) -> CircuitBreaker:
    """The breaker in an entry. A corrupt entry is PAUSED: it was written to stop the stream."""
    breaker = entry(CircuitBreaker, text)
    return breaker if breaker and _has_valid_times(breaker) else CircuitBreaker(CORRUPT, "")


def _has_valid_times(breaker: CircuitBreaker) -> bool:
    try:
        datetime.fromisoformat(breaker.since).astimezone(UTC)
        _utc(breaker.until or 0)
    except (ValueError, OverflowError, OSError):
        return False
    return True


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")

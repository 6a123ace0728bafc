"""System alerts: a bounded Redis list, newest first, that operators see in the dashboard.

No identity value and no secret ever appears in one: an alert is made of a `Failure`
and of names and numbers.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import NamedTuple
from uuid import uuid4

from redis import Redis

from worker.errors import NotRegistered
from worker.failures.alert_types import Failure, Severity
from worker.queues import Stream, stream_of
from worker.state.counters import counters_key
from worker.store.atomic import WRITE_FIRST_KEY, atomically
from worker.store.entries import entries, entries_by_text, entry
from worker.store.joined import read_hash, read_texts
from worker.store.replicas import run_confirmed
from worker.store.scripts import Script

ALERTS = "audience:alerts"
STATES = "audience:alerts:states"
CURRENT = "audience:alerts:current"
"""By type and subject, the entry that the next alert of both repeats."""
LETTER_ALERTS = "audience:alerts:by-letter"
PENDING_LETTERS = "audience:alerts:pending-letters"
DEAD_LETTERS = "audience:dead-letters"
DEAD_MESSAGES = "audience:dead-letters:messages"
DEAD_RECORDS = "audience:dead-letters:records"
"""Stream queue to its dead records."""
COOLDOWNS = "audience:alerts:quiet"
MAX_ALERTS = 10_000
"""About 5 MB of Redis memory. Open fatal alerts stay above it. Dead letters outlive their alert."""
MAX_AUDIENCE_IDS = 100
"""Audience IDs that an alert names."""
TRY_AGAIN = 0
RECOUNT_SECONDS = 30
RAISE_ALERT = Script(__package__, "raise_alert")
NEWEST = 100
"""Alerts that are looked at first where only new ones are asked for."""
COOLDOWN_SECONDS = 15 * 60
"""A stream that keeps failing raises one warning in this time, and people are notified of a subject once."""


class AlertState(StrEnum):
    """The states of an alert."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


KNOWN_STATES = {state.value: state for state in AlertState}


@dataclass(frozen=True)
class Alert:
    """An entry of the list, with the fields of the contract."""

    id: str
    type: str
    severity: str
    raised_at: str
    """UTC, ISO 8601."""
    connection_ids: list[str]
    audience_ids: list[int]
    delivery_stream_name: str | None
    region: str | None
    error_code: str | None
    message: str
    attempts: int
    records: int
    """Records that it is about, of all its occurrences."""
    dead_letter_id: str | None
    """The first one; others of the same alert have its type and stream."""
    occurrences: int = 1
    """How often it was raised."""
    last_raised_at: str | None = None
    """UTC, ISO 8601; None in entries of versions that did not count occurrences."""
    aws_message: str | None = None
    """AWS's own error text, where it holds no record."""
    request_id: str | None = None
    """AWS's ID of the last request that failed."""
    task: str | None = None
    task_id: str | None = None
    """The last message that raised it."""
    origin: str | None = None
    """The process that sent that message, as Celery names it."""

    @property
    def latest(self) -> str:
        """The time at which it was last raised: UTC, ISO 8601."""
        return self.last_raised_at or self.raised_at


class _Counted(NamedTuple):
    """How many alerts were open when they were counted last."""

    revision: tuple[object, ...]
    at: float
    numbers: Counter[str]

    def is_current(self, revision: tuple[object, ...], now: float) -> bool:
        return revision == self.revision and 0 <= now - self.at < RECOUNT_SECONDS


class Cause(NamedTuple):
    """The message that raised an alert, by what may be shown of it."""

    task: str | None
    id: str | None
    origin: str | None
    """As Celery writes it: `gen<process ID>@<host>`."""

    @property
    def host(self) -> str | None:
        """The sender's host: its processes come and go."""
        return self.origin.rpartition("@")[2] if self.origin else None


class Letter(NamedTuple):
    """A dead letter as it is stored beside its alert."""

    id: str
    entry: str
    """JSON."""
    message: str
    """JSON."""
    queue: str
    """The queue of its stream; empty where it has none."""
    records: int


def repeat(known: Alert, again: Alert) -> Alert:
    """The entry of an alert that was raised again: the last time's error, and its dead letter."""
    audience_ids = sorted({*known.audience_ids, *again.audience_ids})
    return replace(
        again,
        id=known.id,
        raised_at=known.raised_at,
        connection_ids=sorted({*known.connection_ids, *again.connection_ids}),
        audience_ids=audience_ids[:MAX_AUDIENCE_IDS],
        attempts=max(known.attempts, again.attempts),
        records=known.records + again.records,
        dead_letter_id=again.dead_letter_id or known.dead_letter_id,
        occurrences=known.occurrences + 1,
    )


class Alerts:
    """The list, and what operators have said of its entries."""

    def __init__(self, redis: Redis, clock: Callable[[], float], wait_replicas: int = 0) -> None:
        """`wait_replicas` are those that must have a dead letter before it counts as stored."""
        self._redis = redis
        self._wait_replicas = wait_replicas
        self._clock = clock
        self._read: dict[str, Alert] = {}
        """The entries that were read last, by their text: few change from one look to the next."""
        self._counted: _Counted | None = None

    def raise_alert(
        self,
        failure: Failure,
        *,
        stream: Stream | None = None,
        connection_ids: Collection[str] = (),
        audience_ids: Collection[int] = (),
        attempts: int = 1,
        records: int = 0,
        cause: Cause | None = None,
        sender: str | None = None,
        letter: Letter | None = None,
        even_if_full: bool = True,
        severity: Severity | None = None,
    ) -> None:
        """Push an alert to the head of the list, or count it into the open one that it repeats.

        It repeats an alert of the same type and severity for the same stream, else the same `sender`, which
        is the caller's host unless it is given, else of the same error code, that was last raised within the
        cooldown. A `letter` is stored in the same atomic step, unless it already is; then no alert is
        raised. Raises `RedisError`, which for a letter may be `TooFewReplicas`.
        """
        now = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        alert = Alert(
            id=uuid4().hex[:12],
            type=failure.alert_type,
            severity=severity or failure.alert_type.severity,
            raised_at=now,
            connection_ids=sorted(connection_ids),
            audience_ids=sorted(audience_ids)[:MAX_AUDIENCE_IDS],
            delivery_stream_name=stream.name if stream else None,
            region=stream.region if stream else None,
            error_code=failure.error_code,
            message=failure.message,
            attempts=attempts,
            records=records,
            dead_letter_id=letter.id if letter else None,
            last_raised_at=now,
            aws_message=failure.aws_message,
            request_id=failure.request_id,
            task=cause.task if cause else None,
            task_id=cause.id if cause else None,
            origin=cause.origin if cause else None,
        )
        sender = sender or (cause.host if cause else None)
        subject = stream.queue if stream else sender or failure.error_code
        # A warning of a type that is fatal otherwise repeats none of those.
        kind = alert.type if severity is None else f"{alert.type}:{severity}"
        self._store(alert, f"{CURRENT}:{kind}:{subject}", letter, even_if_full)

    def _store(self, alert: Alert, current: str, letter: Letter | None, even_if_full: bool) -> None:
        counters = counters_key(stream_of(letter.queue) if letter and letter.queue else None)
        keys = [
            ALERTS,
            STATES,
            current,
            LETTER_ALERTS,
            PENDING_LETTERS,
            DEAD_LETTERS,
            DEAD_MESSAGES,
            DEAD_RECORDS,
            WRITE_FIRST_KEY,
            counters,
        ]
        kept = (letter.id, letter.entry, letter.message, letter.queue, letter.records) if letter else ("",)
        answer = TRY_AGAIN
        while answer == TRY_AGAIN:
            # The script forgets an entry that is no longer open or in the list, and asks to try again.
            text = self._redis.get(current) or ""
            known = entry(Alert, text) if text else None
            merged = repeat(known, alert) if known else alert
            expected = text if known else ""
            if text and not known:
                self._redis.delete(current)
            args = [
                expected,
                json.dumps(asdict(merged)),
                merged.id,
                COOLDOWN_SECONDS,
                MAX_ALERTS,
                MAX_ALERTS // 100,
                int(even_if_full),
                *kept,
            ]
            replicas = self._wait_replicas if letter else 0
            answer = run_confirmed(self._redis, replicas, partial(RAISE_ALERT, keys=keys, args=args))

    def start_cooldown(self, subject: str) -> bool:
        """Start the cooldown of a subject: a stream's queue, or a name of what concerns no stream.

        Returns True where the caller is to notify; False where a cooldown of 15 minutes suppresses it.
        """
        key = f"{COOLDOWNS}:{subject}"
        (started,) = atomically(self._redis, lambda pipe: pipe.set(key, 1, nx=True, ex=COOLDOWN_SECONDS))
        return bool(started)

    def all(self) -> list[Alert]:
        """Every alert, newest first."""
        texts = read_texts(self._redis, ALERTS)
        known = self._read
        fresh = entries_by_text(Alert, (text for text in texts if text not in known))
        found = {text: alert for text in texts if (alert := known.get(text) or fresh.get(text))}
        self._read = found
        if len(found) == len(texts):
            return list(found.values())
        return [found[text] for text in texts if text in found]

    def count_open(self) -> Counter[str]:
        """The number of open alerts, by severity.

        The alerts are read again where the newest of them, or the number of them or of their states, has
        changed, and in any case after 30 seconds, because of what another program may have changed.
        """
        with self._redis.pipeline(transaction=False) as pipe:
            revision = tuple(pipe.lindex(ALERTS, 0).llen(ALERTS).hlen(STATES).execute())
        now = self._clock()
        if self._counted is None or not self._counted.is_current(revision, now):
            states = self.states()
            numbers = Counter(alert.severity for alert in self.all() if alert.id not in states)
            self._counted = _Counted(revision, now, numbers)
        return self._counted.numbers

    def newer_than(self, identifier: str | None) -> list[Alert]:
        """The alerts that came after this one, newest first; all where it is not in the list (any more)."""
        for count in (NEWEST, MAX_ALERTS):
            newest = list(entries(Alert, self._redis.lrange(ALERTS, 0, count - 1)))
            identifiers = [alert.id for alert in newest]
            if identifier in identifiers:
                return newest[: identifiers.index(identifier)]
        return newest

    def states(self) -> dict[str, AlertState]:
        """The state of each alert, by ID. An alert that is not here is open."""
        pairs = read_hash(self._redis, STATES).items()
        return {identifier: KNOWN_STATES[state] for identifier, state in pairs if state in KNOWN_STATES}

    def acknowledge(self, identifier: str) -> None:
        """Note that an operator has seen it. Raises `NotRegistered`."""
        if identifier not in {alert.id for alert in self.all()}:
            raise NotRegistered(f"there is no alert {identifier!r}; list them: audience-firehose alerts")
        self._mark([identifier], AlertState.ACKNOWLEDGED)

    def acknowledge_all(self) -> int:
        """Note that an operator has seen every open one; how many those were."""
        states = self.states()
        found = [alert.id for alert in self.all() if alert.id not in states]
        self._mark(found, AlertState.ACKNOWLEDGED)
        return len(found)

    def resolve(self, dead_letter_ids: Collection[str]) -> None:
        """Mark the alerts of these dead letters as resolved.

        Removing a letter does it too, but of alerts that an older version raised.
        """
        pending = self._redis.hkeys(PENDING_LETTERS)
        found = [
            alert.id
            for alert in self.all()
            if alert.dead_letter_id in dead_letter_ids and alert.id not in pending
        ]
        self._mark(found, AlertState.RESOLVED)

    def _mark(self, identifiers: Sequence[str], state: AlertState) -> None:
        if identifiers:
            atomically(
                self._redis,
                lambda pipe: [pipe.hset(STATES, identifier, str(state)) for identifier in identifiers],
            )
        self._forget_trimmed()

    def _forget_trimmed(self) -> None:
        if self._redis.hlen(STATES) > MAX_ALERTS:
            kept = {alert.id for alert in self.all()}
            trimmed = [identifier for identifier in self._redis.hkeys(STATES) if identifier not in kept]
            if trimmed:
                self._redis.hdel(STATES, *trimmed)

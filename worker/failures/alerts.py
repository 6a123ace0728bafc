"""System alerts: a bounded Redis list, newest first, that operators see in the dashboard.

No identity value and no secret ever appears in one: an alert is made of a `Failure`
and of names and numbers.
"""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from uuid import uuid4

from redis import Redis

from worker.errors import NotRegistered
from worker.failures.alert_types import Failure
from worker.queues import Stream
from worker.store.atomic import in_one_step
from worker.store.entries import entries

ALERTS = "audience:alerts"
STATES = "audience:alerts:states"
COOLDOWNS = "audience:alerts:quiet"
MAX_ALERTS = 10_000
"""About 5 MB of Redis memory. Dead letters are kept whatever becomes of their alert."""
NEWEST = 100
"""Alerts that are looked at first where only new ones are asked for."""
COOLDOWN_SECONDS = 15 * 60
"""A stream that keeps failing raises one warning in this time."""


class AlertState(StrEnum):
    """What has become of an alert."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


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
    """How many records it is about."""
    dead_letter_id: str | None


class Alerts:
    """The list, and what operators have said of its entries."""

    def __init__(self, redis: Redis, clock: Callable[[], float]) -> None:
        self._redis = redis
        self._clock = clock

    def raise_alert(
        self,
        failure: Failure,
        *,
        stream: Stream | None = None,
        connection_ids: Collection[str] = (),
        audience_ids: Collection[int] = (),
        attempts: int = 1,
        records: int = 0,
        dead_letter_id: str | None = None,
        pipe: Redis | None = None,
    ) -> None:
        """Push an alert to the head of the list; where there is a `pipe`, with what else is in it."""
        alert = Alert(
            id=uuid4().hex[:12],
            type=failure.alert_type,
            severity=failure.alert_type.severity,
            raised_at=datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds"),
            connection_ids=sorted(connection_ids),
            audience_ids=sorted(audience_ids),
            delivery_stream_name=stream.name if stream else None,
            region=stream.region if stream else None,
            error_code=failure.error_code,
            message=failure.message,
            attempts=attempts,
            records=records,
            dead_letter_id=dead_letter_id,
        )

        def push(pipe: Redis) -> None:
            pipe.lpush(ALERTS, json.dumps(asdict(alert))).ltrim(ALERTS, 0, MAX_ALERTS - 1)

        if pipe is None:
            in_one_step(self._redis, push)
        else:
            push(pipe)

    def start_cooldown(self, subject: str) -> bool:
        """Start the cooldown of a subject: a stream's queue, or a name of what concerns no stream.

        Returns True where the caller is to notify; False where a cooldown of 15 minutes suppresses it.
        """
        key = f"{COOLDOWNS}:{subject}"
        (started,) = in_one_step(self._redis, lambda pipe: pipe.set(key, 1, nx=True, ex=COOLDOWN_SECONDS))
        return bool(started)

    def all(self) -> list[Alert]:
        """Every alert, newest first."""
        return list(entries(Alert, self._redis.lrange(ALERTS, 0, -1)))

    def newer_than(self, identifier: str | None) -> list[Alert]:
        """The alerts that came after this one, newest first; all where it is not in the list (any more)."""
        for count in (NEWEST, MAX_ALERTS):
            newest = list(entries(Alert, self._redis.lrange(ALERTS, 0, count - 1)))
            identifiers = [alert.id for alert in newest]
            if identifier in identifiers:
                return newest[: identifiers.index(identifier)]
        return newest

    def states(self) -> dict[str, AlertState]:
        """By alert ID, what has become of it. One that is not here is open."""
        known = set(AlertState)
        states = self._redis.hgetall(STATES).items()
        return {identifier: AlertState(state) for identifier, state in states if state in known}

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
        """Note that the records of these dead letters are on their way again, or not wanted."""
        found = [alert.id for alert in self.all() if alert.dead_letter_id in dead_letter_ids]
        self._mark(found, AlertState.RESOLVED)

    def _mark(self, identifiers: Sequence[str], state: AlertState) -> None:
        if identifiers:
            in_one_step(
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

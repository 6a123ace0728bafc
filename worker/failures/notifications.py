"""Alerts on their way to people: Slack, mail, a webhook, whatever apprise knows.

All processes of the installation that may notify share a lease and notes in Redis, so that each alert is sent
once by all of them together. Fatal alerts go at once; warnings wait a moment for others and go together. A
subject (an alert's severity and type, for a stream or for the audiences it names) is notified of at most
once in 15 minutes. A message that cannot be sent is sent again, with growing pauses.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import uuid4

from redis import Redis

from worker.failures.alert_types import Severity
from worker.failures.alerts import COOLDOWN_SECONDS, Alert, AlertState
from worker.store.leases import RELEASE_LEASE

LEASE = "audience:notifications:lease"
NOTIFIED = "audience:notifications:sent"
"""Alert ids, scored by when they were notified of (Unix seconds)."""
COOLDOWN = "audience:notifications:cooldown"
"""By subject: somebody was notified within the cooldown."""
FAILURES = "audience:notifications:failures"
"""How often in a row sending failed, and when to try again (Unix seconds)."""

LEASE_SECONDS = 60
GROUP_SECONDS = 60
"""How long warnings wait for others."""
MAX_AGE_SECONDS = 3_600
"""Older alerts are no news: they are not sent when notifications are turned on."""
NOTES_KEPT_SECONDS = 7 * 24 * 3_600
BACKOFF_SECONDS = (10, 30, 60, 120, 300)
SHOWN = 20
"""Alerts that one message lists."""

logger = logging.getLogger(__name__)


class Notification(NamedTuple):
    """A message to people. It holds no identity value and no secret, as alerts hold none."""

    title: str
    body: str


Send = Callable[[Notification], bool]
"""Sends to everybody; False where somebody could not be reached."""


@dataclass(frozen=True)
class Due:
    """Alerts to be notified of now."""

    fatal: Sequence[Alert]
    warnings: Sequence[Alert]

    @property
    def alerts(self) -> list[Alert]:
        """All of them, the fatal ones first."""
        return [*self.fatal, *self.warnings]


class Notifier:
    """Sends what is due. Several processes may call it; one at a time does the work."""

    def __init__(
        self,
        redis: Redis,
        *,
        alerts: Callable[[], Sequence[Alert]],
        states: Callable[[], Mapping[str, AlertState]],
        send: Send,
        clock: Callable[[], float],
        environment_name: str = "",
    ) -> None:
        self._redis = redis
        self._alerts = alerts
        self._states = states
        self._send = send
        self._clock = clock
        self._environment_name = environment_name

    def run(self) -> int:
        """Send what is due, unless another process does. Returns how many alerts were sent.

        Raises `RedisError`.
        """
        owner = uuid4().hex
        if not self._redis.set(LEASE, owner, nx=True, ex=LEASE_SECONDS):
            return 0
        try:
            return self._run_leased()
        finally:
            RELEASE_LEASE(self._redis, keys=[LEASE], args=[owner])

    def _run_leased(self) -> int:
        now = self._clock()
        if now < self._next_attempt():
            return 0
        due = self._due(now)
        if not due.alerts:
            return 0
        if not self._send(message_of(due.alerts, self._environment_name)):
            self._record_failure(now)
            return 0
        self._record_sent(due.alerts, now)
        return len(due.alerts)

    def _due(self, now: float) -> Due:
        states = self._states()
        recent = [
            alert
            for alert in self._alerts()
            if alert.id not in states and now - _seconds(alert.latest) <= MAX_AGE_SECONDS
        ]
        known = self._redis.zmscore(NOTIFIED, [alert.id for alert in recent]) if recent else []
        fresh = [alert for alert, sent_at in zip(recent, known, strict=True) if sent_at is None]
        cooling = self._cooling(fresh)
        return choose(fresh, cooling, now)

    def _cooling(self, alerts: Sequence[Alert]) -> set[str]:
        subjects = sorted({subject_of(alert) for alert in alerts})
        if not subjects:
            return set()
        found = self._redis.mget([f"{COOLDOWN}:{subject}" for subject in subjects])
        return {subject for subject, value in zip(subjects, found, strict=True) if value is not None}

    def _record_sent(self, alerts: Iterable[Alert], now: float) -> None:
        with self._redis.pipeline(transaction=False) as pipe:
            for alert in alerts:
                pipe.zadd(NOTIFIED, {alert.id: now})
                pipe.set(f"{COOLDOWN}:{subject_of(alert)}", 1, ex=COOLDOWN_SECONDS)
            pipe.zremrangebyscore(NOTIFIED, 0, now - NOTES_KEPT_SECONDS)
            pipe.delete(FAILURES)
            pipe.execute()

    def _next_attempt(self) -> float:
        return float(self._redis.hget(FAILURES, "until") or 0)

    def _record_failure(self, now: float) -> None:
        failures = int(self._redis.hincrby(FAILURES, "failures", 1))
        pause = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS)) - 1]
        self._redis.hset(FAILURES, "until", now + pause)
        logger.warning("notifications could not be sent; they are sent again in %d s", pause)


def choose(fresh: Sequence[Alert], cooling: set[str], now: float) -> Due:
    """Choose the alerts to be notified of now, of those nobody was notified of.

    The newest of several alerts of one subject stands for all. Warnings go when the oldest of them has waited
    long enough, or together with a fatal alert.
    """
    by_subject = {subject_of(alert): alert for alert in reversed(fresh)}
    waiting = [alert for subject, alert in by_subject.items() if subject not in cooling]
    fatal = [alert for alert in waiting if alert.severity == Severity.FATAL]
    warnings = [alert for alert in waiting if alert.severity != Severity.FATAL]
    has_waited = any(now - _seconds(alert.raised_at) >= GROUP_SECONDS for alert in warnings)
    return Due(fatal, warnings if has_waited or fatal else [])


def subject_of(alert: Alert) -> str:
    """The subject that a cooldown is about."""
    where = f"{alert.region}/{alert.delivery_stream_name}" if alert.delivery_stream_name else ""
    return f"{alert.severity}:{alert.type}:{where or ','.join(map(str, alert.audience_ids))}"


def message_of(alerts: Sequence[Alert], environment_name: str = "") -> Notification:
    """The message that tells of these alerts."""
    fatal = sum(alert.severity == Severity.FATAL for alert in alerts)
    first = alerts[0]
    what = first.type if len(alerts) == 1 else f"{len(alerts)} alerts"
    where = f" of {first.delivery_stream_name}" if len(alerts) == 1 and first.delivery_stream_name else ""
    name = f"{environment_name}: " if environment_name else ""
    severity = Severity.FATAL if fatal else Severity.WARNING
    lines = [_line(alert) for alert in alerts[:SHOWN]]
    if len(alerts) > SHOWN:
        lines.append(f"… and {len(alerts) - SHOWN} more: audience-firehose alerts --open")
    return Notification(f"{name}audience-firehose, {severity}: {what}{where}", "\n".join(lines))


def _line(alert: Alert) -> str:
    stream = f", {alert.delivery_stream_name} in {alert.region}" if alert.delivery_stream_name else ""
    records = f", {alert.records} records" if alert.records else ""
    code = f" ({alert.error_code})" if alert.error_code else ""
    return f"[{alert.severity}] {alert.type}{code}{stream}{records}: {alert.message}"


def _seconds(time: str) -> float:
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError:
        return 0.0

"""The audit list: who paused, resumed, replayed, discarded, acknowledged or changed settings, and when."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum

from redis import Redis

from worker.store.entries import entries

AUDIT = "audience:audit"
MAX_ENTRIES = 10_000
"""About 2 MB of Redis."""


MAX_NAMED = 10
"""Things that an entry about many names one by one."""


class Action(StrEnum):
    """An action that the list records."""

    ACKNOWLEDGE = "acknowledge"
    CONFIGURE = "configure"
    CONNECT = "connect"
    DISCARD = "discard"
    DISCONNECT = "disconnect"
    EXPORT = "export"
    FORGET_CONFIGURATION = "forget-configuration"
    PAUSE = "pause"
    REENCRYPT = "reencrypt"
    REPLAY = "replay"
    RESUME = "resume"
    SEND_TEST_RECORD = "send test record"
    SHOW = "show"


@dataclass(frozen=True)
class AuditEntry:
    """An action of a person."""

    at: str
    """UTC, ISO 8601."""
    actor: str
    """A user of the dashboard, or the account and machine that ran the command."""
    action: str
    subject: str
    """A queue, a connection, a dead letter, an alert or a configuration."""
    detail: str = ""


class Audit:
    """The list in Redis, newest first, bounded."""

    def __init__(self, redis: Redis, clock: Callable[[], float]) -> None:
        self._redis = redis
        self._clock = clock

    def record(self, actor: str, action: Action, subject: str, detail: str = "") -> None:
        """Add an action to the list. No value of a secret or an identity belongs into it."""
        now = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="seconds")
        entry = AuditEntry(now, actor, action, subject, detail)
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.lpush(AUDIT, json.dumps(asdict(entry))).ltrim(AUDIT, 0, MAX_ENTRIES - 1).execute()

    def latest(self, limit: int = MAX_ENTRIES) -> list[AuditEntry]:
        """The newest actions, newest first."""
        return list(entries(AuditEntry, self._redis.lrange(AUDIT, 0, limit - 1)))


def named(identifiers: Sequence[str]) -> str:
    """The first of many identifiers, for an entry's detail."""
    return ", ".join(identifiers[:MAX_NAMED]) + (", …" if len(identifiers) > MAX_NAMED else "")

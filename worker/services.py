"""The composition root: the objects that share one Redis, from the registry to the idempotency records."""

import time
from collections.abc import Callable

from redis import Redis

from worker.config import Settings
from worker.failures.alerts import Alerts
from worker.failures.dead_letters import DeadLetters
from worker.flow.admission import Admission
from worker.flow.circuit_breakers import CircuitBreakers
from worker.state.audit import Audit
from worker.state.counters import Counters
from worker.state.history import History
from worker.state.idempotency import IdempotencyRecords
from worker.state.queue_heads import QueueHeads
from worker.state.registry import Registry
from worker.state.secrets import Cipher
from worker.state.skipped_audiences import SkippedAudiences

RECORDS_KEPT = 4
"""Visibility timeouts: a message may come back, wait in a queue, and come back again."""
LEASE_SECONDS = 60
"""Above what one call of Firehose can take: five seconds to connect, thirty to answer."""
SOCKET_TIMEOUT = 5
"""Seconds."""


class Services:
    """All of it, over one Redis client. Time comes from the clocks that are passed in."""

    def __init__(
        self,
        redis: Redis,
        environment: Settings,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.redis = redis
        self.cipher = Cipher(environment.secret_keys)
        self.registry = Registry(
            redis, self.cipher, environment.catalogue, environment.stream_quotas, monotonic
        )
        self.circuit_breakers = CircuitBreakers(redis, clock)
        self.admission = Admission(redis, clock)
        self.alerts = Alerts(redis, clock)
        self.dead_letters = DeadLetters(redis, clock)
        self.counters = Counters(redis, clock)
        self.skipped_audiences = SkippedAudiences(redis)
        self.queue_heads = QueueHeads(redis)
        self.history = History(redis, clock)
        self.audit = Audit(redis, clock)
        self.idempotency = IdempotencyRecords(
            redis,
            keep_seconds=RECORDS_KEPT * environment.visibility_timeout,
            lease_seconds=min(LEASE_SECONDS, environment.visibility_timeout),
        )
        self.clock = clock


def connect(environment: Settings) -> Services:
    """The state behind AUDIENCE_REDIS_URL. Connects when first used."""
    redis = Redis.from_url(
        environment.redis_url,
        decode_responses=True,
        socket_timeout=SOCKET_TIMEOUT,
        socket_connect_timeout=SOCKET_TIMEOUT,
        health_check_interval=30,
    )
    return Services(redis, environment)

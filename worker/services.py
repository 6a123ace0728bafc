"""The composition root of what shares the state's Redis: made from settings, one client and the clocks.

`worker/celery.py` makes what needs the application, `worker/consumer/flow_control.py` a worker's flow
control. A function takes the parts that it uses, and not `Services` whole.
"""

import time
from collections.abc import Callable

from redis import Redis

from worker.broker.handovers import needs_marks
from worker.config import Settings
from worker.failures.alerts import Alerts
from worker.failures.dead_lettering import DeadLettering
from worker.failures.dead_letters import DeadLetters
from worker.failures.replay import Replayer
from worker.flow.admission import Admission
from worker.flow.circuit_breakers import CircuitBreakers
from worker.state.audit import Audit
from worker.state.counters import Counters
from worker.state.history import History
from worker.state.idempotency import IdempotencyRecords
from worker.state.queue_heads import QueueHeads
from worker.state.registry import Registry
from worker.state.run_counts import RunRecorder
from worker.state.secrets import Cipher
from worker.state.skipped_audiences import SkippedAudiences
from worker.status import StatusReader
from worker.store.connections import connect_redis

KEPT_VISIBILITY_TIMEOUTS = 4
"""An idempotency record outlives a message that returns, waits in a queue and returns once more."""
LEASE_SECONDS = 60
"""Above the longest call of Firehose: five seconds to connect, thirty to answer."""


class Services:
    """The parts of one process. They share a Redis client, and take their time from the injected clocks."""

    def __init__(
        self,
        redis: Redis,
        settings: Settings,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.settings = settings
        self.redis = redis
        self.clock = clock
        self.monotonic = monotonic
        self.sleep = sleep
        self.has_given_up_counters = False
        """Whether Redis was away for too long when a task last recorded its counters."""
        self.cipher = Cipher(settings.secret_keys)
        self.registry = Registry(
            redis,
            self.cipher,
            settings.catalogue,
            settings.stream_quotas,
            monotonic,
            wait_replicas=settings.redis_wait_replicas,
        )
        self.circuit_breakers = CircuitBreakers(redis, clock)
        self.admission = Admission(redis, clock)
        self.alerts = Alerts(redis, clock, settings.redis_wait_replicas)
        self.dead_letters = DeadLetters(redis)
        self.counters = Counters(redis, clock)
        self.skipped_audiences = SkippedAudiences(redis)
        self.queue_heads = QueueHeads(redis)
        self.history = History(redis, clock)
        self.audit = Audit(redis, clock)
        self.idempotency = IdempotencyRecords(
            redis,
            keep_seconds=KEPT_VISIBILITY_TIMEOUTS * settings.visibility_timeout,
            lease_seconds=min(LEASE_SECONDS, settings.visibility_timeout),
        )
        are_apart = needs_marks(settings.broker_url, settings.redis_url)
        self.run_recorder = RunRecorder(
            redis,
            idempotency=self.idempotency,
            counters=self.counters,
            skipped_audiences=self.skipped_audiences,
            clock=clock,
            window_seconds=settings.visibility_timeout if are_apart else None,
        )
        self.dead_lettering = DeadLettering(self.dead_letters, self.alerts, clock)
        self.replayer = Replayer(self.dead_letters, self.registry)
        self.status = StatusReader(
            registry=self.registry,
            circuit_breakers=self.circuit_breakers,
            counters=self.counters,
            skipped_audiences=self.skipped_audiences,
            dead_letters=self.dead_letters,
            clock=clock,
        )


def connect(settings: Settings) -> Services:
    """Make the services over the Redis of AUDIENCE_REDIS_URL. It connects when first used."""
    return Services(connect_redis(settings.redis_url, decode_responses=True), settings)

"""What the forwarder remembers, in Redis: from the registry to the receipts."""

import time
from collections.abc import Callable

from redis import Redis

from worker.environment import Environment
from worker.state.admission import Admission
from worker.state.alerts import Alerts
from worker.state.counters import Counters
from worker.state.credentials import Cipher
from worker.state.dead_letters import DeadLetters
from worker.state.gates import Gates
from worker.state.receipts import Receipts
from worker.state.registry import Registry

RECEIPTS_KEPT = 4
"""Visibility timeouts: a message may come back, wait in a queue, and come back again."""
CLAIM_SECONDS = 60
"""Above what one call of Firehose can take: five seconds to connect, thirty to answer."""
SOCKET_TIMEOUT = 5
"""Seconds."""


class State:
    """All of it, over one Redis client. Time comes from the clocks that are passed in."""

    def __init__(
        self,
        redis: Redis,
        environment: Environment,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.redis = redis
        self.cipher = Cipher(environment.secret_keys)
        self.registry = Registry(
            redis, self.cipher, environment.catalogue, environment.stream_quotas, monotonic
        )
        self.gates = Gates(redis, clock)
        self.admission = Admission(redis, clock)
        self.alerts = Alerts(redis, clock)
        self.dead_letters = DeadLetters(redis, clock)
        self.counters = Counters(redis, clock)
        self.receipts = Receipts(
            redis,
            keep_seconds=RECEIPTS_KEPT * environment.visibility_timeout,
            claim_seconds=min(CLAIM_SECONDS, environment.visibility_timeout),
        )
        self.clock = clock


def connect(environment: Environment) -> State:
    """The state behind AUDIENCE_REDIS_URL. Connects when first used."""
    redis = Redis.from_url(
        environment.redis_url,
        decode_responses=True,
        socket_timeout=SOCKET_TIMEOUT,
        socket_connect_timeout=SOCKET_TIMEOUT,
        health_check_interval=30,
    )
    return State(redis, environment)

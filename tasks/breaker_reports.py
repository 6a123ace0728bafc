"""What deliveries report to the circuit breaker of their stream."""

from contextlib import suppress
from dataclasses import dataclass

from redis import Redis
from redis.exceptions import RedisError

from tasks.base import tolerating_redis_errors
from worker.failures.alert_types import Failure
from worker.flow.circuit_breakers import CircuitBreakers
from worker.queues import Stream
from worker.retry_policy import longest_open
from worker.state.registry import Registry


@dataclass(frozen=True)
class BreakerReports:
    """Reports of one region's deliveries. A Redis that is away is logged: the records have moved."""

    circuit_breakers: CircuitBreakers
    registry: Registry
    redis: Redis
    retry_backoff: int
    """Seconds."""
    retry_backoff_max: int
    """Seconds."""

    def report_failure(self, stream: Stream, failure: Failure, message_id: str) -> int:
        """Open the circuit breaker: the stream's batches wait in the broker until a probe succeeds.

        Returns how often the stream has failed in a row; 0 where that is not known.
        """
        with tolerating_redis_errors():
            # Without a connection, no worker consumes the queue, and no batch would ever probe the stream.
            if stream in self.registry.snapshot().streams:
                return self.circuit_breakers.record_failure(
                    stream,
                    failure.alert_type,
                    first=self.retry_backoff,
                    longest=longest_open(self.retry_backoff_max),
                    message_id=message_id,
                )
        return 0

    def report_success(self, stream: Stream) -> None:
        """Close the circuit breaker."""
        with tolerating_redis_errors():
            self.circuit_breakers.record_success(stream, self.redis)

    def is_probe_that_met_again(self, stream: Stream, failure: Failure, message_id: str) -> bool:
        """Whether this message probed the stream, and met what its circuit breaker opened for."""
        breaker = self.circuit_breakers.get(stream)
        return breaker is not None and breaker.is_probe(message_id) and breaker.reason == failure.alert_type

    def leave_probing(self, stream: Stream, message_id: str) -> None:
        """Let another message probe the stream, if this one was its probe."""
        # Without Redis, the others wait until the probe counts as lost.
        with suppress(RedisError):
            self.circuit_breakers.release_probe(stream, message_id)

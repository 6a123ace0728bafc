"""The numbers of a finished attempt to deliver, and where they are recorded."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from redis import Redis

from worker.firehose.put import Billing
from worker.flow.circuit_breakers import CircuitBreakers
from worker.queues import ENQUEUED_AT_HEADER, Stream
from worker.state.counters import Counters
from worker.state.history import History


class Attempt(NamedTuple):
    """What an attempt came to; counts are of records."""

    stream: Stream
    message_id: str
    accepted: int = 0
    refused: int = 0
    waiting: int = 0
    """For a retry."""
    is_retry: bool = False
    size: int = 0
    """Bytes of the accepted records."""
    seconds: float | None = None
    """Since the message was enqueued; None where it does not say."""
    billing: Billing | None = None
    """None where Firehose was not called."""
    is_breaker_informed: bool = False
    """Whether the circuit breaker knows already what the call meant for the stream, from a run."""

    @property
    def is_success(self) -> bool:
        """Whether it closes the circuit breaker: half and half opens none, and must not leave one open."""
        return bool(self.accepted) and self.accepted >= self.refused and not self.is_breaker_informed


@dataclass(frozen=True)
class AttemptRecorder:
    """Records attempts in the counters, in the history and in the circuit breakers."""

    counters: Counters
    history: History
    circuit_breakers: CircuitBreakers

    def record(self, attempt: Attempt, pipe: Redis) -> None:
        """Add to `pipe` what records the attempt."""
        stream, accepted, refused = attempt.stream, attempt.accepted, attempt.refused
        if attempt.is_success:
            self.circuit_breakers.record_success(stream, pipe)
        self.counters.delivered(stream, accepted=accepted, refused=refused, pipe=pipe)
        if attempt.billing:
            self.counters.billed(stream, **attempt.billing._asdict(), pipe=pipe)
        self.history.record(
            stream,
            pipe,
            delivered=accepted,
            refused=refused,
            size=attempt.size,
            seconds=attempt.seconds if accepted else None,
        )
        if attempt.is_retry or attempt.waiting:
            self.counters.retrying(stream, attempt.message_id, attempt.waiting, pipe)


def seconds_since_enqueued(headers: Iterable[Mapping[str, Any]], now: float) -> float | None:
    """How long the message that waited longest did; None where none says, such as a replay's."""
    enqueued_at = [at for each in headers if isinstance(at := each.get(ENQUEUED_AT_HEADER), int | float)]
    return now - min(enqueued_at) if enqueued_at else None

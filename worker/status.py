"""Every stream at one moment, and the records that reached none: what `status` and the Streams page show."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from kombu.exceptions import OperationalError

from schemas.records import Skip
from worker.failures.dead_letters import DeadLetters
from worker.flow.circuit_breakers import CircuitBreaker, CircuitBreakers, CircuitState
from worker.queues import CHANGES_QUEUE, Stream, stream_of
from worker.state.counters import Counters, Counts
from worker.state.registry import Registry
from worker.state.skipped_audiences import AudienceSkips, SkippedAudiences


class StreamState(StrEnum):
    """Whether a stream flows, and whether somebody must act for it to flow again."""

    FLOWING = "flowing"
    FAILING = "failing"
    """Its breaker is OPEN or HALF_OPEN: it flows again by itself."""
    PAUSED = "paused"
    """Until somebody resumes it."""
    NOT_CONNECTED = "not connected"
    """Nobody delivers what it has left, until it is connected again."""


STREAM_STATES = {
    CircuitState.CLOSED: StreamState.FLOWING,
    CircuitState.OPEN: StreamState.FAILING,
    CircuitState.HALF_OPEN: StreamState.FAILING,
    CircuitState.PAUSED: StreamState.PAUSED,
}


class StreamStatus(NamedTuple):
    """A stream and how it fares."""

    stream: Stream
    connection_ids: Sequence[str]
    """None where it was disconnected and left something behind."""
    breaker: CircuitBreaker | None
    circuit_state: CircuitState
    """That of its breaker."""
    waiting: int | None
    """Batches in its queue; None where the broker does not answer."""
    dead: int
    """Records."""
    counts: Counts

    @property
    def state(self) -> StreamState:
        """Whether it flows. A stream without a connection does not flow, whatever its breaker."""
        if not self.connection_ids:
            return StreamState.NOT_CONNECTED
        return STREAM_STATES[self.circuit_state]

    @property
    def being_tried(self) -> bool:
        """Whether a batch probes the stream now, or the next one will."""
        return self.circuit_state is CircuitState.HALF_OPEN

    @property
    def in_broker(self) -> int:
        """Records that wait in the stream's queue, or are with a worker: what the other numbers leave."""
        return max(self.counts.outstanding - self.dead, 0)


@dataclass(frozen=True)
class Status:
    """All streams, and what is outside them."""

    problem: OperationalError | None
    """Why the lengths of queues are not known."""

    rows: Sequence[StreamStatus]
    incoming: int | None
    """Messages of changes that no worker has picked up; None where the broker does not answer."""
    counts: Counts
    """The counters of records that were for no stream."""
    skipped_audiences: Mapping[Skip, AudienceSkips]
    """By reason, the audiences that records were skipped of. Connected ones have a connection now."""
    dead: int
    """Records in dead letters of no stream, invalid changes above all."""

    @property
    def broker_answers(self) -> bool:
        """Whether the lengths of queues are known."""
        return self.problem is None

    @cached_property
    def paused(self) -> int:
        """How many streams wait for somebody to resume them."""
        return sum(row.state is StreamState.PAUSED for row in self.rows)

    @cached_property
    def failing(self) -> int:
        """How many streams get no call for a while, or are probed."""
        return sum(row.state is StreamState.FAILING for row in self.rows)

    @cached_property
    def waiting(self) -> int | None:
        """Batches in all queues."""
        return sum(row.waiting or 0 for row in self.rows) if self.broker_answers else None

    @cached_property
    def all_dead(self) -> int:
        """Records in dead letters, of a stream or not."""
        return self.dead + sum(row.dead for row in self.rows)


QueueLengths = Callable[[Iterable[str]], Mapping[str, int]]


class StatusReader:
    """Reads the status of all streams from what the workers share."""

    def __init__(
        self,
        *,
        registry: Registry,
        circuit_breakers: CircuitBreakers,
        counters: Counters,
        skipped_audiences: SkippedAudiences,
        dead_letters: DeadLetters,
        clock: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._circuit_breakers = circuit_breakers
        self._counters = counters
        self._skipped_audiences = skipped_audiences
        self._dead_letters = dead_letters
        self._clock = clock

    def read(self, queue_lengths: QueueLengths) -> Status:
        """Read the status as it is now. Raises `RedisError`; without the broker, only its part is unknown."""
        breakers, now = self._circuit_breakers.all(), self._clock()
        circuit_states = {queue: breaker.state(now) for queue, breaker in breakers.items()}
        connections = self._registry.snapshot().connections_by_stream
        dead = self._dead_letters.records_by_stream()
        # Not those that only failed: nothing tries them any more, so that would never end.
        unregistered = {stream_of(queue) for queue, breaker in breakers.items() if breaker.is_paused}
        unregistered |= {stream for stream in dead if stream}
        counted = self._counters.streams()
        asked = connections.keys() | unregistered | counted
        lengths, problem = _known(queue_lengths, [CHANGES_QUEUE, *(stream.queue for stream in asked)])
        counts = self._counters.of_all([None, *asked])
        # The counters alone would not do: records that were delivered twice hide as many that are left.
        unregistered |= {
            stream
            for stream in counted - connections.keys()
            if lengths.get(stream.queue) or counts[stream].outstanding
        }
        streams = {stream: stream.queue for stream in sorted(connections.keys() | unregistered)}
        rows = [
            StreamStatus(
                stream=stream,
                connection_ids=connections.get(stream, ()),
                breaker=breakers.get(queue),
                circuit_state=circuit_states.get(queue, CircuitState.CLOSED),
                waiting=lengths.get(queue),
                dead=dead.get(stream, 0),
                counts=counts[stream],
            )
            for stream, queue in streams.items()
        ]
        return Status(
            problem=problem,
            rows=rows,
            incoming=lengths.get(CHANGES_QUEUE),
            counts=counts[None],
            skipped_audiences=self._skipped_by_audience(),
            dead=dead[None],
        )

    def _skipped_by_audience(self) -> dict[Skip, AudienceSkips]:
        skips = self._skipped_audiences.all()
        if unconnected := skips.get(Skip.NO_CONNECTION):
            skips[Skip.NO_CONNECTION] = unconnected.without(self._registry.snapshot().routes)
        return skips


def _known(
    queue_lengths: QueueLengths, queues: Iterable[str]
) -> tuple[Mapping[str, int], OperationalError | None]:
    try:
        return queue_lengths(queues), None
    except OperationalError as error:
        return {}, error

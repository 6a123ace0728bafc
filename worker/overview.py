"""Every stream at one moment, and the records that reached none: what `status` and the Streams page show."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from kombu.exceptions import OperationalError

from worker.queues import CHANGES_QUEUE, Stream, stream_of
from worker.state import State
from worker.state.counters import Counts
from worker.state.dead_letters import DeadLetter
from worker.state.gates import Gate
from worker.state.registry import Snapshot, stream_of_connection


@dataclass(frozen=True)
class StreamStatus:
    """A stream and how it fares."""

    stream: Stream
    connection_ids: Sequence[str]
    """None where it was disconnected and left something behind."""
    gate: Gate | None
    waiting: int | None
    """Batches in its queue; None where the broker does not answer."""
    dead: int
    """Records."""
    counts: Counts

    @property
    def in_broker(self) -> int:
        """Records that wait in the stream's queue, or are with a worker: what the other numbers leave."""
        return max(self.counts.in_hand - self.dead, 0)


@dataclass(frozen=True)
class Overview:
    """All streams, and what is outside them."""

    problem: OperationalError | None
    """Why the lengths of queues are not known."""

    rows: Sequence[StreamStatus]
    incoming: int | None
    """Messages of changes that no worker has picked up; None where the broker does not answer."""
    counts: Counts
    """Of records that were for no stream."""
    dead: int
    """Records in dead letters of no stream, invalid changes above all."""

    @property
    def broker_answers(self) -> bool:
        """Whether the lengths of queues are known."""
        return self.problem is None

    @property
    def paused(self) -> int:
        """How many streams do not flow."""
        return sum(row.gate is not None for row in self.rows)

    @property
    def waiting(self) -> int | None:
        """Batches in all queues."""
        return sum(row.waiting or 0 for row in self.rows) if self.broker_answers else None

    @property
    def all_dead(self) -> int:
        """Records in dead letters, of a stream or not."""
        return self.dead + sum(row.dead for row in self.rows)


QueueLengths = Callable[[Iterable[str]], Mapping[str, int]]


def overview(state: State, queue_lengths: QueueLengths) -> Overview:
    """Everything as it is now. Raises `RedisError`; a broker that is away only leaves its part unknown."""
    gates = state.gates.closed()
    connections = connections_by_stream(state.registry.snapshot())
    dead = dead_by_stream(state.dead_letters.all())
    unregistered = {stream_of(queue) for queue in gates} | {stream for stream in dead if stream}
    unregistered |= {stream for stream in state.counters.streams() if state.counters.of(stream).in_hand}
    streams = sorted(connections.keys() | unregistered)
    lengths, problem = _known(queue_lengths, [CHANGES_QUEUE, *(stream.queue for stream in streams)])
    rows = [
        StreamStatus(
            stream=stream,
            connection_ids=connections.get(stream, ()),
            gate=gates.get(stream.queue),
            waiting=lengths.get(stream.queue),
            dead=dead[stream],
            counts=state.counters.of(stream),
        )
        for stream in streams
    ]
    return Overview(
        problem=problem,
        rows=rows,
        incoming=lengths.get(CHANGES_QUEUE),
        counts=state.counters.of(None),
        dead=dead[None],
    )


def connections_by_stream(snapshot: Snapshot) -> Mapping[Stream, Sequence[str]]:
    """The IDs of the connections that lead to each registered stream."""
    found: defaultdict[Stream, list[str]] = defaultdict(list)
    for identifier, connection in sorted(snapshot.connections.items()):
        found[stream_of_connection(connection)].append(identifier)
    return found


def dead_by_stream(letters: Iterable[DeadLetter]) -> Counter[Stream | None]:
    """How many records lie dead, of each stream and of none."""
    dead: Counter[Stream | None] = Counter()
    for letter in letters:
        dead[letter.stream] += letter.records
    return dead


def _known(
    queue_lengths: QueueLengths, queues: Iterable[str]
) -> tuple[Mapping[str, int], OperationalError | None]:
    try:
        return queue_lengths(queues), None
    except OperationalError as error:
        return {}, error

"""What the Streams page shows: every stream, and the records that reached none."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from kombu.exceptions import OperationalError

from schemas.records import Skip
from worker.queues import CHANGES_QUEUE, Stream, stream_of
from worker.state import State
from worker.state.counters import Counts
from worker.state.dead_letters import DeadLetter
from worker.state.gates import OPERATOR, Gate
from worker.state.registry import Snapshot, stream_of_connection

SKIP_LABELS = {
    Skip.NO_CONNECTION: "without a connection",
    Skip.ANONYMOUS: "anonymous users",
    Skip.NO_IDENTITIES: "no identities left",
    Skip.ATTRIBUTE_UPDATE: "attribute updates",
    Skip.UNNAMED_IDENTITY: "unnamed identities",
}


@dataclass(frozen=True)
class StreamRow:
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
    def pause(self) -> str:
        """Why it is closed; empty where it flows."""
        if self.gate is None:
            return ""
        return "paused by an operator" if self.gate.reason == OPERATOR else self.gate.reason


@dataclass(frozen=True)
class StreamTable:
    """All streams, and what is outside them."""

    rows: Sequence[StreamRow]
    incoming: int | None
    """Messages of changes that no worker has picked up; None where the broker does not answer."""
    skipped: Mapping[Skip, int]
    """Records that were for no stream."""
    dead: int
    """Records in dead letters of no stream, invalid changes above all."""

    @property
    def broker_answers(self) -> bool:
        """Whether the lengths of queues are known."""
        return self.incoming is not None

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


def stream_table(state: State, queue_lengths: QueueLengths) -> StreamTable:
    """Everything as it is now. Raises `RedisError`; a broker that is away only leaves its part unknown."""
    gates = state.gates.closed()
    connections = connections_by_stream(state.registry.snapshot())
    dead = dead_by_stream(state.dead_letters.all())
    unregistered = {stream_of(queue) for queue in gates} | {stream for stream in dead if stream}
    streams = sorted(connections.keys() | unregistered)
    lengths = _known(queue_lengths, [CHANGES_QUEUE, *(stream.queue for stream in streams)])
    rows = [
        StreamRow(
            stream=stream,
            connection_ids=connections.get(stream, ()),
            gate=gates.get(stream.queue),
            waiting=lengths.get(stream.queue),
            dead=dead[stream],
            counts=state.counters.of(stream),
        )
        for stream in streams
    ]
    return StreamTable(
        rows=rows,
        incoming=lengths.get(CHANGES_QUEUE),
        skipped=state.counters.of(None).skipped,
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


def _known(queue_lengths: QueueLengths, queues: Iterable[str]) -> Mapping[str, int]:
    try:
        return queue_lengths(queues)
    except OperationalError:
        return {}

"""Batches that fit into one PutRecordBatch call.

A unit is what may not be parted: a line, or a removal and the addition that follows
it. In a message it is a string, or a list of two strings.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

MAX_RECORD_BYTES = 1_024_000
"""Before base64. Source: PutRecordBatch, AWS API reference."""
MAX_BATCH_RECORDS = 500
"""Source: PutRecordBatch, AWS API reference."""
MAX_BATCH_BYTES = 4 * 2**20
"""Counted as base64: the reference does not say which is meant, and this is the safe reading.
A unit always fits: two records of the largest size are 2.6 MiB of base64."""

Unit = str | list[str]


def records_in(units: Sequence[Unit]) -> int:
    """How many records these units are."""
    return sum(1 if isinstance(unit, str) else len(unit) for unit in units)


@dataclass(slots=True)
class Batch:
    """Units for one stream, in their order, and whose they are."""

    units: list[Unit] = field(default_factory=list, repr=False)
    records: int = 0
    base64_bytes: int = 0
    connection_ids: set[str] = field(default_factory=set)
    audience_ids: set[int] = field(default_factory=set)

    def has_room_for(self, records: int, base64_bytes: int) -> bool:
        """Whether a unit of this size still fits."""
        return (
            self.records + records <= MAX_BATCH_RECORDS
            and self.base64_bytes + base64_bytes <= MAX_BATCH_BYTES
        )


class Batches:
    """The batches of one stream under construction. Oversize units are set apart."""

    def __init__(self) -> None:
        self.oversize = Batch()
        self._batches: list[Batch] = []

    def add(self, lines: Sequence[bytes], connection_id: str, audience_id: int) -> None:
        """Append a unit: its lines stay adjacent, in one batch.

        A removal that is too large is set apart alone, and its addition is sent: what a
        stream hears last is then still true. It would not be the other way round.
        """
        if len(lines) > 1 and _is_oversize(lines[0]) and not _is_oversize(lines[1]):
            self._append(lines[:1], connection_id, audience_id)
            lines = lines[1:]
        self._append(lines, connection_id, audience_id)

    def _append(self, lines: Sequence[bytes], connection_id: str, audience_id: int) -> None:
        base64_bytes = sum((len(line) + 2) // 3 * 4 for line in lines)
        batch = self._batch_for(lines, base64_bytes)
        batch.units.append(lines[0].decode() if len(lines) == 1 else [line.decode() for line in lines])
        batch.records += len(lines)
        batch.base64_bytes += base64_bytes
        batch.connection_ids.add(connection_id)
        batch.audience_ids.add(audience_id)

    @property
    def records(self) -> int:
        """Of all batches, and set apart."""
        return self.oversize.records + sum(batch.records for batch in self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)

    def _batch_for(self, lines: Sequence[bytes], base64_bytes: int) -> Batch:
        if any(map(_is_oversize, lines)):
            return self.oversize
        if not self._batches or not self._batches[-1].has_room_for(len(lines), base64_bytes):
            self._batches.append(Batch())
        return self._batches[-1]


def _is_oversize(line: bytes) -> bool:
    return len(line) > MAX_RECORD_BYTES

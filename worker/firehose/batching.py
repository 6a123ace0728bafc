"""Batches that fit into one PutRecordBatch call."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.quotas import Quota
from worker.firehose.groups import Group, as_group

MAX_RECORD_BYTES = 1_024_000
"""Before base64. Source: PutRecordBatch, AWS API reference."""
MAX_BATCH_RECORDS = 500
"""Source: PutRecordBatch, AWS API reference."""
MAX_BATCH_BYTES = 4 * 2**20
"""Counted as base64: the reference does not say which is meant, and this is the safe reading.
A group always fits: two records of the largest size are 2.6 MiB of base64."""
BATCHES_A_SECOND = 10
"""At least, where a stream is at its quota: a batch takes a tenth of a second's worth at most, unless
it is a single group. What the fleet sends in any five seconds is to be its quota to within 5 %, so no
batch may be a large part of that."""


class BatchLimit(NamedTuple):
    """What a batch may hold beyond its first group. By default what Firehose takes in one call."""

    records: int = MAX_BATCH_RECORDS
    bytes: int = MAX_BATCH_BYTES
    """Before base64, as quotas count."""


def batch_limit(quota: Quota) -> BatchLimit:
    """The limit for the batches of a stream with this quota."""
    return BatchLimit(
        records=min(MAX_BATCH_RECORDS, quota.records // BATCHES_A_SECOND),
        bytes=min(MAX_BATCH_BYTES, quota.bytes // BATCHES_A_SECOND),
    )


@dataclass(slots=True)
class Batch:
    """Groups for one stream, in their order, and whose they are."""

    groups: list[Group] = field(default_factory=list, repr=False)
    records: int = 0
    bytes: int = 0
    base64_bytes: int = 0
    connection_ids: set[str] = field(default_factory=set)
    audience_ids: set[int] = field(default_factory=set)


class Batches:
    """The batches of one stream under construction, within its limit. Oversize groups are set apart."""

    def __init__(self, limit: BatchLimit) -> None:
        self._limit = limit
        self.oversize = Batch()
        self._batches: list[Batch] = []

    def add(self, lines: Sequence[bytes], connection_id: str, audience_id: int) -> None:
        """Append a group: its lines stay adjacent, in one batch.

        A removal that is too large is set apart alone, and its addition is sent: what a
        stream hears last is then still true. It would not be the other way round.
        """
        if len(lines) > 1 and _is_oversize(lines[0]) and not _is_oversize(lines[1]):
            self._append(lines[:1], connection_id, audience_id)
            lines = lines[1:]
        self._append(lines, connection_id, audience_id)

    def _append(self, lines: Sequence[bytes], connection_id: str, audience_id: int) -> None:
        size = sum(map(len, lines))
        base64_bytes = sum((len(line) + 2) // 3 * 4 for line in lines)
        batch = self._batch_for(lines, size, base64_bytes)
        batch.groups.append(as_group([line.decode() for line in lines]))
        batch.records += len(lines)
        batch.bytes += size
        batch.base64_bytes += base64_bytes
        batch.connection_ids.add(connection_id)
        batch.audience_ids.add(audience_id)

    @property
    def records(self) -> int:
        """Of all batches, and set apart."""
        return self.oversize.records + sum(batch.records for batch in self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)

    def _batch_for(self, lines: Sequence[bytes], size: int, base64_bytes: int) -> Batch:
        if size > MAX_RECORD_BYTES and any(map(_is_oversize, lines)):
            return self.oversize
        if not self._batches or not self._has_room_for(len(lines), size, base64_bytes):
            self._batches.append(Batch())
        return self._batches[-1]

    def _has_room_for(self, records: int, size: int, base64_bytes: int) -> bool:
        """Whether a group of this size still fits into the last batch."""
        last = self._batches[-1]
        return (
            last.records + records <= self._limit.records
            and last.bytes + size <= self._limit.bytes
            and last.base64_bytes + base64_bytes <= MAX_BATCH_BYTES
        )


def _is_oversize(line: bytes) -> bool:
    return len(line) > MAX_RECORD_BYTES

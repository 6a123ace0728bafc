"""Batches that fit into one PutRecordBatch call, and chains of batches that must arrive in their order."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.quotas import Quota
from worker.firehose.groups import Group, as_group

MAX_RECORD_BYTES = 1_024_000
"""Before base64. Source: PutRecordBatch, AWS API reference."""
MAX_BATCH_RECORDS = 500
"""Source: PutRecordBatch, AWS API reference."""
MAX_BATCH_BYTES = 4 * 2**20
"""Counted as base64: the reference does not say which is meant, and this is the safe reading."""
BATCHES_A_SECOND = 10
"""At least, where a stream is at its quota: a batch takes a tenth of a second's worth at most, unless it is a
single group. All workers together are to keep a quota to within 5 % in any five seconds, so no batch may be
a large part of that."""


Lines = Sequence[bytes]
"""Rendered records of one user and audience, in their order."""


class BatchLimit(NamedTuple):
    """What a batch may hold beyond its first group. By default what Firehose takes in one call."""

    records: int = MAX_BATCH_RECORDS
    """Firehose records."""
    bytes: int = MAX_BATCH_BYTES
    """Before base64, as quotas count."""


def batch_limit(quota: Quota) -> BatchLimit:
    """The limit for the batches of a stream with this quota."""
    return BatchLimit(
        records=min(MAX_BATCH_RECORDS, quota.records // BATCHES_A_SECOND),
        bytes=min(MAX_BATCH_BYTES, quota.bytes // BATCHES_A_SECOND),
    )


class Source(NamedTuple):
    """The connection that an atomic group's records are for."""

    connection_id: str
    audience_id: int


@dataclass(slots=True)
class Batch:
    """Groups for one stream, in their order, and the connections that they are for."""

    groups: list[Group] = field(default_factory=list, repr=False)
    records: int = 0
    bytes: int = 0
    base64_bytes: int = 0
    connection_ids: set[str] = field(default_factory=set)
    audience_ids: set[int] = field(default_factory=set)

    def add(self, lines: Lines, size: "_Size", source: Source) -> None:
        """Append an atomic group."""
        self.groups.append(as_group([line.decode() for line in lines]))
        self.records += size.records
        self.bytes += size.bytes
        self.base64_bytes += size.base64_bytes
        self.connection_ids.add(source.connection_id)
        self.audience_ids.add(source.audience_id)


Chain = list[Batch]
"""Batches of which each is sent when Firehose has accepted all of the one before it."""


class Batches:
    """The batches of one stream under construction, within its limit. Oversize records are set apart."""

    def __init__(self, limit: BatchLimit) -> None:
        self._limit = limit
        self._independent = _Packer(limit)
        self._chains: list[Chain] = []
        self.oversize = Batch()
        """Records that Firehose never takes."""

    def add(self, lines: Lines, source: Source) -> None:
        """Append an atomic group, which may be sent before and after any other."""
        size = _size(lines)
        if size.fits_one_call:
            self._independent.add(lines, size, source)
        else:
            self.add_stages([[lines]], source)

    def add_stages(self, stages: Iterable[Iterable[Lines]], source: Source) -> None:
        """Append atomic groups in stages, of which each is sent when all of the one before has arrived."""
        packer = _Packer(self._limit)
        for groups in stages:
            packer.begin_batch()
            for lines in groups:
                packer.add_in_pieces(lines, source)
        self._chains.append(packer.batches)

    def set_apart(self, lines: Lines, source: Source) -> None:
        """Append lines of which at least one is oversize, and which must not arrive without each other."""
        self.oversize.add(lines, _size(lines), source)

    @property
    def records(self) -> int:
        """Records in all batches, and those set apart."""
        return self.oversize.records + sum(batch.records for chain in self for batch in chain)

    def __iter__(self) -> Iterator[Chain]:
        """Chains, most of them of a single batch. They may be sent in any order, and at the same time."""
        for batch in self._independent.batches:
            yield [batch]
        yield from self._chains


def is_oversize(line: bytes) -> bool:
    """Whether a line is more than Firehose takes as a record."""
    return len(line) > MAX_RECORD_BYTES


class _Size(NamedTuple):
    records: int
    bytes: int
    base64_bytes: int

    @property
    def fits_one_call(self) -> bool:
        return self.records <= MAX_BATCH_RECORDS and self.base64_bytes <= MAX_BATCH_BYTES


def _size(lines: Lines) -> _Size:
    if len(lines) == 1:
        size = len(lines[0])
        return _Size(1, size, (size + 2) // 3 * 4)
    return _Size(len(lines), sum(map(len, lines)), sum((len(line) + 2) // 3 * 4 for line in lines))


class _Packer:
    """Fills one batch after the other."""

    def __init__(self, limit: BatchLimit) -> None:
        self._limit = limit
        self._is_full = True
        self.batches: list[Batch] = []

    def begin_batch(self) -> None:
        """Put what comes next into a new batch."""
        self._is_full = True

    def add(self, lines: Lines, size: _Size, source: Source) -> None:
        """Append an atomic group that one call can take."""
        if self._is_full or not self._has_room_for(size):
            self.batches.append(Batch())
            self._is_full = False
        self.batches[-1].add(lines, size, source)

    def add_in_pieces(self, lines: Lines, source: Source) -> None:
        """Append an atomic group of any size: one that no call can take fills several batches in a row."""
        if (size := _size(lines)).fits_one_call:
            self.add(lines, size, source)
            return
        for piece in self._pieces(lines):
            self.begin_batch()
            self.add(piece, _size(piece), source)
        self.begin_batch()

    def _pieces(self, lines: Lines) -> Iterator[Lines]:
        start, taken = 0, _Size(0, 0, 0)
        for position, line in enumerate(lines):
            size = _size([line])
            taken = _Size(*map(sum, zip(taken, size, strict=True)))
            if position > start and not self._may_hold(*taken):
                yield lines[start:position]
                start, taken = position, size
        yield lines[start:]

    def _has_room_for(self, size: _Size) -> bool:
        last = self.batches[-1]
        return self._may_hold(
            last.records + size.records, last.bytes + size.bytes, last.base64_bytes + size.base64_bytes
        )

    def _may_hold(self, records: int, size: int, base64_size: int) -> bool:
        return records <= self._limit.records and size <= self._limit.bytes and base64_size <= MAX_BATCH_BYTES

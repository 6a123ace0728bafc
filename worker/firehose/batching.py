"""Batches that fit into one PutRecordBatch call, and chains of batches that must arrive in their order."""

from bisect import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

import orjson

from schemas.quotas import Quota
from worker.firehose.groups import BILLING_STEP_BYTES, Group, as_group

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


AGGREGATED_RECORD_BYTES = 10 * BILLING_STEP_BYTES
"""The most bytes of a Firehose record that lines share. A multiple of the billing step leaves least unused.
A larger record saves hardly more, and is sent again whole where Firehose refuses it."""
AGGREGATED_RECORD_LINES = 500
"""The most that dynamic partitioning deaggregates. Source: Amazon Data Firehose's developer guide."""

Lines = Sequence[bytes]
"""Rendered records of one user and audience, in their order."""


class BatchLimit(NamedTuple):
    """The most that a batch holds beyond its first group. By default the limits of a Firehose call."""

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
    """The audience of an atomic group's records, and how a stream receives them."""

    audience_id: int
    aggregate: bool = False
    """Whether lines share Firehose records."""


@dataclass(slots=True)
class Batch:
    """Groups for one stream, in their order, and the audiences that they are of."""

    groups: list[Group] = field(default_factory=list, repr=False)
    records: int = 0
    """Lines."""
    firehose_records: int = 0
    bytes: int = 0
    base64_bytes: int = 0
    audience_ids: set[int] = field(default_factory=set)
    _json: orjson.Fragment | None = field(default=None, repr=False)
    _open_record: list[str] = field(default_factory=list, repr=False)
    """The parts of the last group, while it is a Firehose record that further lines may share."""
    _open_lines: int = 0
    _open_bytes: int = 0
    _last_source: Source | None = None

    @property
    def json(self) -> orjson.Fragment:
        """The groups of a complete batch as JSON, which is written once for all messages that hold them."""
        if self._json is None:
            self._json = orjson.Fragment(orjson.dumps(self.groups))
        return self._json

    def add_record(self, record: str, lines: int, size: int, base64_size: int, source: Source) -> None:
        """Append an atomic group of one Firehose record of so many lines and bytes: the usual group."""
        if self._open_record:
            self.close_record()
        if source.aggregate:
            self._open_record, self._open_lines, self._open_bytes = [record], lines, size
        self.groups.append(record)
        self.records += lines
        self.firehose_records += 1
        self.bytes += size
        self.base64_bytes += base64_size
        if source is not self._last_source:
            self._add_source(source)

    def add(self, records: Lines, size: "_Size", source: Source) -> None:
        """Append an atomic group of several Firehose records."""
        self.close_record()
        self.groups.append(as_group([record.decode() for record in records]))
        self.records += size.records
        self.firehose_records += size.firehose_records
        self.bytes += size.bytes
        self.base64_bytes += size.base64_bytes
        self._add_source(source)

    def try_join(self, record: str, lines: int, size: int, base64_size: int, source: Source) -> bool:
        """Put a group's lines into the last Firehose record. False: it has no room."""
        if (
            not self._open_record
            or self._open_bytes + size > AGGREGATED_RECORD_BYTES
            or self._open_lines + lines > AGGREGATED_RECORD_LINES
        ):
            return False
        self._open_record.append(record)
        self._open_lines += lines
        self._open_bytes += size
        self.records += lines
        self.bytes += size
        self.base64_bytes += base64_size
        if source is not self._last_source:
            self._add_source(source)
        return True

    def close_record(self) -> None:
        """End the Firehose record that lines share: what comes next begins another."""
        if self._open_record:
            self.groups[-1] = "".join(self._open_record)
            self._open_record = []

    def has_room(self, limit: BatchLimit, firehose_records: int, size: int, base64_size: int) -> bool:
        """Whether so many more Firehose records, of these bytes, are within the limit."""
        return (
            self.firehose_records + firehose_records <= limit.records
            and self.bytes + size <= limit.bytes
            and self.base64_bytes + base64_size <= MAX_BATCH_BYTES
        )

    def _add_source(self, source: Source) -> None:
        self.audience_ids.add(source.audience_id)
        self._last_source = source


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

    def add_lines(self, lines: Sequence[str], audience_ids: Sequence[int]) -> bool:
        """Append lines of these audiences, each an atomic group and a Firehose record: the usual groups.

        It does what `add` does for each of them, at a third of the cost. False: it does nothing, since a line
        is too large for Firehose.
        """
        return self._independent.add_lines(lines, audience_ids)

    def add(self, lines: Lines, source: Source) -> None:
        """Append an atomic group, which may be sent before and after any other."""
        records = lines if len(lines) == 1 else _firehose_records(lines, source)
        if len(records) == 1:
            self._independent.add_record(records[0], len(lines), source)
            return
        size = _size(records, source)
        if size.fits_one_call:
            self._independent.add(records, size, source)
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
        source = source._replace(aggregate=False)
        self.oversize.add(lines, _size(lines, source), source)

    @property
    def records(self) -> int:
        """Records in all batches, and those set apart."""
        return self.oversize.records + sum(batch.records for chain in self for batch in chain)

    def __iter__(self) -> Iterator[Chain]:
        """Chains, most of them of a single batch. They may be sent in any order, and at the same time."""
        chains = [*([batch] for batch in self._independent.batches), *self._chains]
        for chain in chains:
            for batch in chain:
                batch.close_record()
        return iter(chains)


def is_oversize(line: bytes) -> bool:
    """Whether a line is more than Firehose takes as a record."""
    return len(line) > MAX_RECORD_BYTES


class _Size(NamedTuple):
    records: int
    """Lines."""
    firehose_records: int
    bytes: int
    base64_bytes: int

    @property
    def fits_one_call(self) -> bool:
        return self.firehose_records <= MAX_BATCH_RECORDS and self.base64_bytes <= MAX_BATCH_BYTES


def _size(records: Lines, source: Source) -> _Size:
    lines = sum(record.count(b"\n") for record in records) if source.aggregate else len(records)
    sizes = list(map(len, records))
    return _Size(lines, len(records), sum(sizes), sum((size + 2) // 3 * 4 for size in sizes))


def _firehose_records(lines: Lines, source: Source) -> Lines:
    """The Firehose records of an atomic group: its lines, or as few as can hold them."""
    if len(lines) == 1 or not source.aggregate:
        return lines
    records: list[list[bytes]] = [[]]
    size = 0
    for line in lines:
        size += len(line)
        if records[-1] and (size > AGGREGATED_RECORD_BYTES or len(records[-1]) == AGGREGATED_RECORD_LINES):
            records.append([])
            size = len(line)
        records[-1].append(line)
    return [b"".join(shared) for shared in records]


class _Packer:
    """Fills one batch after the other."""

    def __init__(self, limit: BatchLimit) -> None:
        self._limit = limit
        self._is_full = True
        self.batches: list[Batch] = []

    def begin_batch(self) -> None:
        """Put what comes next into a new batch."""
        self._is_full = True

    def add(self, records: Lines, size: _Size, source: Source) -> None:
        """Append an atomic group that one call can take."""
        if len(records) == 1:
            self.add_record(records[0], size.records, source)
            return
        if self._is_full or not self._has_room_for(size):
            self._append_batch()
        self.batches[-1].add(records, size, source)

    def add_record(self, record: bytes, lines: int, source: Source) -> None:
        """Append an atomic group of one Firehose record of so many lines, or put them into the last one."""
        text, size = record.decode(), len(record)
        base64_size = (size + 2) // 3 * 4
        if (
            source.aggregate
            and not self._is_full
            and self.batches[-1].has_room(self._limit, 0, size, base64_size)
            and self.batches[-1].try_join(text, lines, size, base64_size, source)
        ):
            return
        if self._is_full or not self.batches[-1].has_room(self._limit, 1, size, base64_size):
            self._append_batch()
        self.batches[-1].add_record(text, lines, size, base64_size, source)

    def add_lines(self, lines: Sequence[str], audience_ids: Sequence[int]) -> bool:
        """Fill new batches with lines, each a group and a Firehose record. False: one is too large."""
        is_ascii = all(map(str.isascii, lines))
        sizes = list(map(len, lines)) if is_ascii else [len(line.encode()) for line in lines]
        if max(sizes, default=0) > MAX_RECORD_BYTES:
            return False
        bytes_before = list(accumulate(sizes, initial=0))
        base64_before = list(accumulate([(size + 2) // 3 * 4 for size in sizes], initial=0))
        start = 0
        while start < len(lines):
            fitting = min(
                start + self._limit.records,
                bisect(bytes_before, bytes_before[start] + self._limit.bytes) - 1,
                bisect(base64_before, base64_before[start] + MAX_BATCH_BYTES) - 1,
            )
            end = max(fitting, start + 1)
            batch = Batch(
                groups=[*lines[start:end]],
                records=end - start,
                firehose_records=end - start,
                bytes=bytes_before[end] - bytes_before[start],
                base64_bytes=base64_before[end] - base64_before[start],
                audience_ids=set(audience_ids[start:end]),
            )
            self.batches.append(batch)
            self._is_full = False
            start = end
        return True

    def _append_batch(self) -> None:
        self.batches.append(Batch())
        self._is_full = False

    def add_in_pieces(self, lines: Lines, source: Source) -> None:
        """Append an atomic group of any size: one that no call can take fills several batches in a row."""
        records = _firehose_records(lines, source)
        if (size := _size(records, source)).fits_one_call:
            self.add(records, size, source)
            return
        for piece in self._pieces(records, source):
            self.begin_batch()
            self.add(piece, _size(piece, source), source)
        self.begin_batch()

    def _pieces(self, records: Lines, source: Source) -> Iterator[Lines]:
        start, taken = 0, _Size(0, 0, 0, 0)
        for position, record in enumerate(records):
            size = _size([record], source)
            taken = _Size(*map(sum, zip(taken, size, strict=True)))
            if position > start and not self._may_hold(taken):
                yield records[start:position]
                start, taken = position, size
        yield records[start:]

    def _has_room_for(self, size: _Size) -> bool:
        return self.batches[-1].has_room(self._limit, size.firehose_records, size.bytes, size.base64_bytes)

    def _may_hold(self, size: _Size) -> bool:
        return (
            size.firehose_records <= self._limit.records
            and size.bytes <= self._limit.bytes
            and size.base64_bytes <= MAX_BATCH_BYTES
        )

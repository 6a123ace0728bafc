"""Counters: the records of each stream, by outcome.

Every record that a producer made for a stream is delivered, a dead letter, discarded,
or in the broker: `in_broker` is the difference. The numbers of an
attempt are written in one script with its idempotency record, so that neither is without the
other. A record that is delivered twice counts twice.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

import orjson
from redis import Redis

from schemas.records import Skip
from worker.queues import STREAM_QUEUE_PREFIX, Stream, is_stream_queue, stream_of
from worker.store.entries import number
from worker.store.joined import read_texts
from worker.store.scripts import Script

COUNTERS = "audience:counters"
RETRYING = "audience:retrying"
NO_STREAM = "none"
"""The key's suffix for records that no stream was to receive."""
COUNTED_STREAMS = "audience:counted-streams"
"""A set of the queues of all streams that have counters, and of the mark that it is complete."""
COMPLETE = "complete"
SCANNED_KEYS = 1_000
STREAMS_CACHED = 20_000
STREAMS_PER_CALL = 500
"""Redis does nothing else for the 2 ms that they take."""
READ_COUNTERS = Script(__package__, "read_counters")
DEAD_LETTERED = "dead"
"""The field that the script which stores a dead letter adds to."""
SKIPPED = "skipped:"
SKIPS = {f"{SKIPPED}{skip}": skip for skip in Skip}


class Counts(NamedTuple):
    """Records, since the counters began."""

    enqueued: int
    """Made for the stream, of valid changes."""
    delivered: int
    refused: int
    """Refusals: a record that is refused twice counts twice."""
    retrying: int
    """Waiting for another try now."""
    discarded: int
    """Given up by an operator."""
    skipped: dict[Skip, int]
    last_delivery: str | None
    """UTC, ISO 8601."""
    billed_bytes: int = 0
    """Billed by AWS: accepted Firehose records, each rounded up to 5 KiB."""
    saved_bytes: int = 0
    """Not billed because lines share Firehose records."""
    dead_lettered: int = 0
    """That became dead letters, whatever became of those."""

    @property
    def outstanding(self) -> int:
        """Neither delivered nor discarded: in the broker, or dead letters."""
        return max(self.enqueued - self.delivered - self.discarded, 0)


class Counters:
    """A Redis hash for each stream. Numbers are added through `pipe`, where there is one."""

    def __init__(self, redis: Redis, clock: Callable[[], float]) -> None:
        self._redis = redis
        self._clock = clock

    def enqueued(self, stream: Stream, records: int, pipe: Redis | None = None) -> None:
        """Add records that were made for the stream."""
        self._add(stream, "accepted", records, pipe)
        self._into(pipe).sadd(COUNTED_STREAMS, stream.queue)

    def delivered(
        self, stream: Stream, *, accepted: int = 0, refused: int = 0, pipe: Redis | None = None
    ) -> None:
        """Add records of an answer of Firehose."""
        if accepted:
            self._add(stream, "delivered", accepted, pipe)
            self._into(pipe).hset(counters_key(stream), "last_delivery", self._now())
        if refused:
            self._add(stream, "refused", refused, pipe)

    def billed(
        self, stream: Stream, *, billed_bytes: int, saved_bytes: int, pipe: Redis | None = None
    ) -> None:
        """Add what AWS bills for an accepted call, and what it does not bill because lines share records."""
        if billed_bytes:
            self._add(stream, "billed_bytes", billed_bytes, pipe)
        if saved_bytes:
            self._add(stream, "saved_bytes", saved_bytes, pipe)

    def discarded(self, stream: Stream, records: int, pipe: Redis | None = None) -> None:
        """Add records that an operator discarded."""
        self._add(stream, "discarded", records, pipe)

    def skipped(self, skips: Mapping[tuple[Stream | None, Skip], int], pipe: Redis | None = None) -> None:
        """Add records that were skipped, by stream and reason."""
        for (stream, skip), count in skips.items():
            self._add(stream, f"skipped:{skip}", count, pipe)

    def retrying(self, stream: Stream, task_id: str, records: int, pipe: Redis | None = None) -> None:
        """Set how many records of a message wait for a retry; with 0, remove the message.

        Kept by message, so that a message which is delivered twice is not counted twice.
        """
        if records:
            self._into(pipe).hset(_retrying_key(stream), task_id, records)
        else:
            self._into(pipe).hdel(_retrying_key(stream), task_id)

    def of(self, stream: Stream | None) -> Counts:
        """Read the counters of a stream; with None, of the records that were for no stream."""
        return self.of_all([stream])[stream]

    def of_all(self, streams: Iterable[Stream | None]) -> dict[Stream | None, Counts]:
        """Read the counters of each of these streams."""
        asked = list(streams)
        found: dict[Stream | None, Counts] = {}
        for start in range(0, len(asked), STREAMS_PER_CALL):
            part = asked[start : start + STREAMS_PER_CALL]
            keys = [key for stream in part for key in _encoded_keys(stream)]
            answers = orjson.loads(READ_COUNTERS(self._redis, keys=keys))
            found |= {stream: _counts(*answer) for stream, answer in zip(part, answers, strict=True)}
        return found

    def streams(self) -> set[Stream]:
        """Find every stream that has counters."""
        queues = set(read_texts(self._redis, COUNTED_STREAMS))
        if COMPLETE not in queues:
            queues = self._complete()
        return {stream_of(queue) for queue in queues if is_stream_queue(queue)}

    def _complete(self) -> set[str]:
        """Note the streams that an earlier version, which kept no set of them, has counted."""
        keys = self._redis.scan_iter(match=f"{COUNTERS}:{STREAM_QUEUE_PREFIX}.*", count=SCANNED_KEYS)
        # A cluster returns keys with the prefix that `worker.store.cluster` has put before them.
        queues = {key.partition(f"{COUNTERS}:")[2] for key in keys}
        self._redis.sadd(COUNTED_STREAMS, COMPLETE, *queues)
        return queues.union(self._redis.smembers(COUNTED_STREAMS))

    def _add(self, stream: Stream | None, field: str, count: int, pipe: Redis | None) -> None:
        self._into(pipe).hincrby(counters_key(stream), field, count)

    def _into(self, pipe: Redis | None) -> Redis:
        return self._redis if pipe is None else pipe

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="seconds")


def counters_key(stream: Stream | None) -> str:
    """The key of a stream's counters; with None, of the records of no stream."""
    return f"{COUNTERS}:{stream.queue if stream else NO_STREAM}"


@lru_cache(maxsize=STREAMS_CACHED)
def _encoded_keys(stream: Stream | None) -> tuple[bytes, bytes]:
    """Both keys of a stream, ready to be sent."""
    return counters_key(stream).encode(), _retrying_key(stream).encode()


def _retrying_key(stream: Stream | None) -> str:
    return f"{RETRYING}:{stream.queue if stream else NO_STREAM}"


def _counts(fields: list[str], retrying: int) -> Counts:
    """The counters of a hash, given as its fields and values in turn."""
    parts = iter(fields)
    counters = dict(zip(parts, parts, strict=True))
    skipped = {SKIPS[field]: number(counters[field]) for field in counters if field in SKIPS}
    return Counts(
        enqueued=number(counters.get("accepted")),
        delivered=number(counters.get("delivered")),
        refused=number(counters.get("refused")),
        retrying=int(retrying),
        discarded=number(counters.get("discarded")),
        # In the order of the catalogue.
        skipped={skip: skipped[skip] for skip in Skip if skipped.get(skip)} if skipped else {},
        last_delivery=counters.get("last_delivery"),
        billed_bytes=number(counters.get("billed_bytes")),
        saved_bytes=number(counters.get("saved_bytes")),
        dead_lettered=number(counters.get(DEAD_LETTERED)),
    )

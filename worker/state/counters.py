"""Counters: the records of each stream, by outcome.

Every record that a producer made for a stream is delivered, a dead letter, discarded,
or in the broker: `in_broker` is the difference. The numbers of an
attempt are written in one script with its idempotency record, so that neither is without the
other. A record that is delivered twice counts twice.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from redis import Redis

from schemas.records import Skip
from worker.queues import STREAM_QUEUE_PREFIX, Stream, is_stream_queue, stream_of
from worker.store.entries import number

COUNTERS = "audience:counters"
RETRYING = "audience:retrying"
NO_STREAM = "none"
"""The key's suffix for records that no stream was to receive."""


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
            self._into(pipe).hset(f"{RETRYING}:{stream.queue}", task_id, records)
        else:
            self._into(pipe).hdel(f"{RETRYING}:{stream.queue}", task_id)

    def of(self, stream: Stream | None) -> Counts:
        """Read the counters of a stream; with None, of the records that were for no stream."""
        retrying = f"{RETRYING}:{stream.queue if stream else NO_STREAM}"
        with self._redis.pipeline(transaction=False) as pipe:
            counters, waiting = pipe.hgetall(counters_key(stream)).hvals(retrying).execute()
        skipped = Counter({skip: number(counters.get(f"skipped:{skip}")) for skip in Skip})
        return Counts(
            enqueued=number(counters.get("accepted")),
            delivered=number(counters.get("delivered")),
            refused=number(counters.get("refused")),
            retrying=sum(map(number, waiting)),
            discarded=number(counters.get("discarded")),
            skipped=dict(+skipped),
            last_delivery=counters.get("last_delivery"),
            billed_bytes=number(counters.get("billed_bytes")),
            saved_bytes=number(counters.get("saved_bytes")),
        )

    def streams(self) -> set[Stream]:
        """Find every stream that has counters."""
        keys = self._redis.scan_iter(match=f"{COUNTERS}:{STREAM_QUEUE_PREFIX}.*")
        queues = (key.removeprefix(f"{COUNTERS}:") for key in keys)
        return {stream_of(queue) for queue in queues if is_stream_queue(queue)}

    def _add(self, stream: Stream | None, field: str, count: int, pipe: Redis | None) -> None:
        self._into(pipe).hincrby(counters_key(stream), field, count)

    def _into(self, pipe: Redis | None) -> Redis:
        return self._redis if pipe is None else pipe

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="seconds")


def counters_key(stream: Stream | None) -> str:
    """The key of a stream's counters; with None, of the records of no stream."""
    return f"{COUNTERS}:{stream.queue if stream else NO_STREAM}"

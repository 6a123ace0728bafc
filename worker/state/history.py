"""The last hour of each stream: records delivered and refused by minute, and how long they took.

A minute's figures are fields of one hash a stream and hour, which expires. Delivery seconds are counted in
buckets, so that quantiles cost no list of values; the buckets since the counters began are the metric
`audience_firehose_delivery_seconds`.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from typing import NamedTuple

import orjson
from redis import Redis

from worker.queues import Stream
from worker.store.entries import number
from worker.store.scripts import Script

HISTORY = "audience:history"
"""By stream's queue and hour since 1970."""
DELIVERY_SECONDS = "audience:delivery-seconds"
"""A hash for all streams since the counters began: records by bucket, and their sum of seconds."""
SUM = "sum"

BUCKET_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 7_200, inf)
"""Upper bounds."""
MINUTES_SHOWN = 60
MINUTES_PER_SLOT = 10
"""The resolution of a stream's buckets."""
MINUTE_SECONDS = 60
HOUR_SECONDS = 3_600
READ_HISTORY = Script(__package__, "read_history")
EXPIRE_SECONDS = 2 * HOUR_SECONDS + MINUTE_SECONDS
"""The oldest minute shown is an hour back, in an hash that an hour filled before."""


@dataclass(frozen=True)
class StreamHistory:
    """The last hour of a stream."""

    delivered: Sequence[int]
    """Records, a number a minute, the current minute last."""
    refused: Sequence[int]
    bytes: Sequence[int]
    """The bytes of the delivered records, before base64."""
    buckets: Mapping[int, int]
    """Delivered records by the position of their bucket."""

    def quantile_seconds(self, share: float) -> float | None:
        """The upper bound of the bucket that holds this share of the records; None without any."""
        return quantile_seconds(self.buckets, share)


@dataclass(frozen=True)
class DeliverySeconds:
    """How long deliveries took, since the counters began."""

    cumulative: Sequence[int]
    """Records within each bound of `BUCKET_SECONDS`."""
    total_seconds: float


class History:
    """The figures in Redis."""

    def __init__(self, redis: Redis, clock: Callable[[], float]) -> None:
        self._redis = redis
        self._clock = clock

    def record(
        self,
        stream: Stream,
        pipe: Redis,
        *,
        delivered: int = 0,
        refused: int = 0,
        size: int = 0,
        seconds: float | None = None,
    ) -> None:
        """Count one call's records. The commands go into `pipe`.

        `size` is the delivered records' bytes, `seconds` how long they took since they were enqueued.
        """
        now = self._clock()
        key = _key(stream.queue, int(now // HOUR_SECONDS))
        minute = int(now // MINUTE_SECONDS) % 60
        if delivered:
            pipe.hincrby(key, f"delivered:{minute}", delivered)
        if size:
            pipe.hincrby(key, f"bytes:{minute}", size)
        if refused:
            pipe.hincrby(key, f"refused:{minute}", refused)
        if delivered and seconds is not None:
            bucket = bisect_left(BUCKET_SECONDS, max(seconds, 0.0))
            pipe.hincrby(key, f"seconds:{minute // MINUTES_PER_SLOT}:{bucket}", delivered)
            pipe.hincrby(DELIVERY_SECONDS, str(bucket), delivered)
            pipe.hincrbyfloat(DELIVERY_SECONDS, SUM, round(max(seconds, 0.0) * delivered, 6))
        if delivered or refused:
            pipe.expire(key, EXPIRE_SECONDS)

    def of(self, streams: Iterable[Stream]) -> dict[Stream, StreamHistory]:
        """Read the last hour of each of these streams, a page of them in one round trip."""
        asked = list(streams)
        now = self._clock()
        hour = int(now // HOUR_SECONDS)
        keys = [_key(stream.queue, at) for stream in asked for at in (hour - 1, hour)]
        answers = orjson.loads(READ_HISTORY(self._redis, keys=keys))
        minute = int(now // MINUTE_SECONDS) % 60
        pairs = zip(answers[::2], answers[1::2], strict=True)
        return {
            stream: _history(before, current, minute)
            for stream, (before, current) in zip(asked, pairs, strict=True)
        }

    def delivery_seconds(self) -> DeliverySeconds:
        """Read how long all deliveries took, since the counters began."""
        found = self._redis.hgetall(DELIVERY_SECONDS)
        counts = [number(found.get(str(position))) for position in range(len(BUCKET_SECONDS))]
        return DeliverySeconds(list(accumulate(counts)), _float(found.get(SUM)))


def quantile_seconds(buckets: Mapping[int, int], share: float) -> float | None:
    """The upper bound in seconds of the bucket that holds this share of the records; None without any."""
    wanted = share * sum(buckets.values())
    reached = 0
    for position in sorted(buckets):
        reached += buckets[position]
        if reached >= wanted and reached:
            return BUCKET_SECONDS[position]
    return None


class _Place(NamedTuple):
    """The place of a field's figure."""

    kind: str
    at: int
    """A minute of the hour; of seconds, a slot of minutes."""
    bucket: int = 0


SECONDS = "seconds"
MINUTE_KINDS = ("delivered", "refused", "bytes")
PLACES = {
    f"{kind}:{minute}": _Place(kind, minute) for kind in MINUTE_KINDS for minute in range(MINUTES_SHOWN)
} | {
    f"{SECONDS}:{slot}:{bucket}": _Place(SECONDS, slot, bucket)
    for slot in range(MINUTES_SHOWN // MINUTES_PER_SLOT)
    for bucket in range(len(BUCKET_SECONDS))
}
"""By field of a hash."""


def _history(before: Sequence[str], current: Sequence[str], minute: int) -> StreamHistory:
    """The hour that ends with this minute of the current hash's hour.

    The hashes are given as their fields and values in turn.
    """
    minutes = {kind: [0] * MINUTES_SHOWN for kind in MINUTE_KINDS}
    buckets: Counter[int] = Counter()
    slot = minute // MINUTES_PER_SLOT
    for figures, is_current in ((before, False), (current, True)):
        parts = iter(figures)
        for field, text in zip(parts, parts, strict=True):
            place = PLACES.get(field)
            if place is None:
                continue
            kind, at, bucket = place
            if kind == SECONDS:
                if (at <= slot) is is_current:
                    buckets[bucket] += number(text)
            elif (at <= minute) is is_current:
                # The current minute is the last, and the one after it, an hour ago, the first.
                minutes[kind][at - minute - 1] = number(text)
    return StreamHistory(minutes["delivered"], minutes["refused"], minutes["bytes"], buckets)


def _key(queue: str, hour: int) -> str:
    return f"{HISTORY}:{queue}:{hour}"


def _float(text: str | None) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0

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

from redis import Redis

from worker.queues import Stream
from worker.store.entries import number

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
        """Read the last hour of each of these streams, in one round trip."""
        asked = list(streams)
        now = self._clock()
        hour = int(now // HOUR_SECONDS)
        with self._redis.pipeline(transaction=False) as pipe:
            for stream in asked:
                pipe.hgetall(_key(stream.queue, hour - 1)).hgetall(_key(stream.queue, hour))
            answers = pipe.execute()
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


def _history(before: Mapping[str, str], current: Mapping[str, str], minute: int) -> StreamHistory:
    """The hour that ends with this minute of the current hash's hour."""
    slot = minute // MINUTES_PER_SLOT
    buckets: Counter[int] = Counter()
    for figures, slots in ((before, range(slot + 1, 6)), (current, range(slot + 1))):
        for position in range(len(BUCKET_SECONDS)):
            buckets[position] += sum(number(figures.get(f"seconds:{at}:{position}")) for at in slots)
    delivered, refused, size = (
        _minutes(kind, before, current, minute) for kind in ("delivered", "refused", "bytes")
    )
    return StreamHistory(delivered, refused, size, +buckets)


def _minutes(kind: str, before: Mapping[str, str], current: Mapping[str, str], minute: int) -> list[int]:
    figures = [number(before.get(f"{kind}:{at}")) for at in range(minute + 1, MINUTES_SHOWN)]
    return figures + [number(current.get(f"{kind}:{at}")) for at in range(minute + 1)]


def _key(queue: str, hour: int) -> str:
    return f"{HISTORY}:{queue}:{hour}"


def _float(text: str | None) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0

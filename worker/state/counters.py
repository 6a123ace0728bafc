"""What has happened to records, per stream: the numbers behind `status` and the Streams page."""

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from redis import Redis

from schemas.records import Skip
from worker.queues import Stream

COUNTERS = "audience:counters"
RETRYING = "audience:retrying"
NO_STREAM = "none"
"""Where records are counted that no stream was to receive."""


class Counts(NamedTuple):
    """Records, since the counters began."""

    delivered: int
    refused: int
    """Refusals: a record that is refused twice counts twice."""
    retrying: int
    """Waiting for another try now."""
    skipped: dict[Skip, int]
    last_delivery: str | None
    """UTC, ISO 8601."""


class Counters:
    """One Redis hash a stream. A batch costs one round trip."""

    def __init__(self, redis: Redis, clock: Callable[[], float]) -> None:
        self._redis = redis
        self._clock = clock

    def delivered(self, stream: Stream, accepted: int, refused: int) -> None:
        """Firehose has answered."""
        key = f"{COUNTERS}:{stream.queue}"
        with self._redis.pipeline(transaction=False) as pipe:
            if accepted:
                pipe.hincrby(key, "delivered", accepted)
                pipe.hset(key, "last_delivery", self._now())
            if refused:
                pipe.hincrby(key, "refused", refused)
            pipe.execute()

    def skipped(self, skips: Mapping[tuple[Stream | None, Skip], int]) -> None:
        """Records were not sent, each for a reason."""
        if not skips:
            return
        with self._redis.pipeline(transaction=False) as pipe:
            for (stream, skip), count in skips.items():
                pipe.hincrby(f"{COUNTERS}:{stream.queue if stream else NO_STREAM}", f"skipped:{skip}", count)
            pipe.execute()

    def retrying(self, stream: Stream, task_id: str, records: int) -> None:
        """This many records of a message wait for another try; with 0, none any more.

        Kept by message, so that a message which is delivered twice is not counted twice.
        """
        if records:
            self._redis.hset(f"{RETRYING}:{stream.queue}", task_id, records)
        else:
            self._redis.hdel(f"{RETRYING}:{stream.queue}", task_id)

    def of(self, stream: Stream | None) -> Counts:
        """What is known of a stream; with None, of the records that were for no stream."""
        queue = stream.queue if stream else NO_STREAM
        with self._redis.pipeline(transaction=False) as pipe:
            counters, waiting = pipe.hgetall(f"{COUNTERS}:{queue}").hvals(f"{RETRYING}:{queue}").execute()
        skipped = Counter({skip: int(counters.get(f"skipped:{skip}", 0)) for skip in Skip})
        return Counts(
            delivered=int(counters.get("delivered", 0)),
            refused=int(counters.get("refused", 0)),
            retrying=sum(map(int, waiting)),
            skipped=dict(+skipped),
            last_delivery=counters.get("last_delivery"),
        )

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="seconds")

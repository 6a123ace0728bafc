"""Counts of the changes that were fanned out together: a message's, or those of a run.

The broker keeps those of a run as JSON, from the moment that its records are there until the state has them.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import orjson
from redis import Redis

from schemas.records import Skip
from worker.queues import Stream, stream_of
from worker.state.counters import Counters
from worker.state.idempotency import IdempotencyRecords
from worker.state.skipped_audiences import SkippedAudiences
from worker.store.windows import Windows

COUNTED_MESSAGES = "audience:counted"
"""By window of time: a set of the idempotency keys of the messages that were counted in it."""


class Skipped(NamedTuple):
    """The counter of a record that is not sent."""

    stream: Stream | None
    audience_id: int | None
    skip: Skip


class RunCounts(NamedTuple):
    """Numbers of records."""

    enqueued: Mapping[Stream, int]
    skipped: Mapping[Skipped, int]
    messages: Sequence[bytes] = ()
    """The idempotency keys of the messages, where the state is to remember that they are counted."""

    def as_json(self, at: float) -> str:
        """As JSON text, with the Unix seconds at which they became true."""
        return orjson.dumps(
            {
                "at": at,
                "messages": [key.hex() for key in self.messages],
                "enqueued": {stream.queue: records for stream, records in self.enqueued.items()},
                "skipped": [
                    [stream and stream.queue, audience_id, skip, records]
                    for (stream, audience_id, skip), records in self.skipped.items()
                ],
            }
        ).decode()

    @classmethod
    def from_json(cls, text: str) -> tuple["RunCounts", float]:
        """Read the counts of `as_json`, and their time. Raises `ValueError`, `KeyError` or `TypeError`."""
        content = orjson.loads(text)
        skipped = {
            Skipped(queue and stream_of(queue), audience_id, Skip(skip)): int(records)
            for queue, audience_id, skip, records in content["skipped"]
        }
        enqueued = {stream_of(queue): int(records) for queue, records in content["enqueued"].items()}
        messages = [bytes.fromhex(key) for key in content["messages"]]
        return cls(enqueued, skipped, messages), float(content["at"])

    def record(self, pipe: Redis, counters: Counters, skipped_audiences: SkippedAudiences) -> None:
        """Put the commands that add them to the counters into a pipeline."""
        by_stream: Counter[tuple[Stream | None, Skip]] = Counter()
        by_audience: Counter[tuple[int, Skip]] = Counter()
        for (stream, audience_id, skip), records in self.skipped.items():
            by_stream[stream, skip] += records
            if audience_id is not None:
                by_audience[audience_id, skip] += records
        for stream, records in self.enqueued.items():
            counters.enqueued(stream, records, pipe)
        counters.skipped(by_stream, pipe)
        skipped_audiences.record(by_audience, pipe)


class RunRecorder:
    """Records runs in the counters, each once.

    If the broker is another server and fails over to a replica that is behind, it holds messages again
    that were handed over, and they are handed over again, in other runs. So the state then remembers the
    messages that are counted.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        idempotency: IdempotencyRecords,
        counters: Counters,
        skipped_audiences: SkippedAudiences,
        clock: Callable[[], float],
        window_seconds: int | None,
    ) -> None:
        """`window_seconds` is a quarter of the time for which a message is remembered; None: none is."""
        self._redis = redis
        self._idempotency = idempotency
        self._counters = counters
        self._skipped_audiences = skipped_audiences
        self._clock = clock
        self._counted = None if window_seconds is None else Windows(COUNTED_MESSAGES, window_seconds)

    def counts_of(
        self, enqueued: Mapping[Stream, int], skipped: Mapping[Skipped, int], messages: Iterable[bytes]
    ) -> RunCounts:
        """The counts of a run with these messages, given by their idempotency keys."""
        return RunCounts(enqueued, skipped, list(messages) if self._counted else ())

    def record(self, run_id: str, counts: RunCounts) -> None:
        """Record a run that was handed over; a repetition changes nothing. Raises `RedisError`."""

        def commands(pipe: Redis) -> None:
            counts.record(pipe, self._counters, self._skipped_audiences)
            if counts.messages and self._counted:
                current, *_ = self._counted.keys(self._clock())
                pipe.sadd(current, *counts.messages)
                pipe.expire(current, self._counted.keep_seconds)

        self._idempotency.complete(run_id, 0, commands, mark=run_id, even_if_full=False)

    def record_text(self, run_id: str, text: str) -> None:
        """Record a run from the text of its counts. Raises as `RunCounts.from_json` and `record` do."""
        counts, _ = RunCounts.from_json(text)
        self.record(run_id, counts)

    def counted(self, messages: Sequence[bytes]) -> set[bytes]:
        """Those of the messages, given by their idempotency keys, that are counted already."""
        if not (messages and self._counted):
            return set()
        with self._redis.pipeline(transaction=False) as pipe:
            for window in self._counted.keys(self._clock()):
                pipe.smismember(window, messages)
            answers = pipe.execute()
        return {key for found in answers for key, is_member in zip(messages, found, strict=True) if is_member}

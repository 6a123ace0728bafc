"""Rate-limit queues: streams that wait for a token of their task's `rate_limit`, in order.

Celery keeps a message over its rate limit in the worker, unacknowledged, where no other worker can
have it. Here it is requeued, and its stream's queue is paused for as long as the streams that wait before it
need. Celery takes the token itself, right after a message was admitted.
"""

from collections.abc import Mapping

from kombu.utils.limits import TokenBucket

from worker.flow.admission import BURST_SECONDS
from worker.flow.queue_pauses import QueuePauses


class RateLimits:
    """The rate limits of this worker's tasks, by Celery's token buckets. A region's streams share one."""

    def __init__(self, buckets: Mapping[str, TokenBucket | None], pauses: QueuePauses) -> None:
        self._buckets = buckets
        self._pauses = pauses

    def tokens_left(self, task: str, at_most: int) -> int:
        """How many calls of Firehose the rate limit allows now: one at least, which may have to wait."""
        bucket = self._buckets.get(task)
        if bucket is None:
            return at_most
        return next((tokens for tokens in range(at_most, 1, -1) if not bucket.expected_time(tokens)), 1)

    def try_acquire(self, queue: str, task: str, tokens: int = 1) -> bool:
        """Whether there are tokens for a message's calls of Firehose. If not, its queue waits for them."""
        bucket = self._buckets.get(task)
        if bucket is None:
            return True
        wait = bucket.expected_time(tokens)
        # Celery keeps what already waits for a token in the bucket's contents.
        if not (wait or bucket.contents):
            return True
        self._enqueue(queue, task, bucket, wait)
        return False

    def message_is_admitted(self, queue: str, task: str, tokens: int = 1) -> None:
        """Take the tokens of an admitted message but the one that Celery takes.

        If that is the last one, the stream waits behind the others.
        """
        bucket = self._buckets.get(task)
        if bucket is None:
            return
        bucket.can_consume(tokens - 1)
        if wait := bucket.expected_time(2):
            self._enqueue(queue, task, bucket, wait)

    def buckets_changed(self) -> None:
        """Celery has made new buckets: no stream waits for an old limit any longer.

        Celery's bucket holds one token, and a message that comes a little late finds what accrued since to
        be lost. So a bucket may hold what accrues in a tenth of a second besides.
        """
        for task, bucket in self._buckets.items():
            if bucket is not None:
                bucket.capacity = 1 + bucket.fill_rate * BURST_SECONDS
            self._pauses.end_all(_reason(task))

    def _enqueue(self, queue: str, task: str, bucket: TokenBucket, wait: float) -> None:
        """Pause the queue until a token is left for it; `wait` is the time until there is the first one."""
        reason = _reason(task)
        if self._pauses.has(queue, reason):
            # RabbitMQ had sent this message ahead, or the worker has reconnected. Its place stays.
            self._pauses.pause_again(queue)
            return
        before = self._pauses.count(reason) + len(bucket.contents)
        self._pauses.pause_for(queue, reason, wait + before / bucket.fill_rate)


def _reason(task: str) -> str:
    return f"rate limit of {task}"

"""Which attempts are done with, so that a message which comes back is not delivered again.

Celery acknowledges a message after its task. A worker that dies in between, or a
visibility timeout that runs out, brings it back although its records are delivered,
or handed over to a retry.
"""

from redis import Redis

RECEIPTS = "audience:receipts"
RECEIVED = "audience:received"
LOST = "audience:lost"


class Receipts:
    """One expiring key an attempt: a message and how often it was retried before."""

    def __init__(self, redis: Redis, keep_seconds: int) -> None:
        self._redis = redis
        self._keep_seconds = keep_seconds

    def issue(self, task_id: str, retries: int, pipe: Redis | None = None) -> None:
        """The attempt is done with: delivered, handed over to a retry, or a dead letter."""
        redis = self._redis if pipe is None else pipe
        redis.set(self._key(task_id, retries), 1, ex=self._keep_seconds)

    def issued(self, task_id: str, retries: int) -> bool:
        """Whether the attempt was done with before."""
        return bool(self._redis.exists(self._key(task_id, retries)))

    def received_at(self, task_id: str, now: int) -> int:
        """When a message was first received (Unix seconds): the first `now` that is said of it."""
        key = f"{RECEIVED}:{task_id}"
        self._redis.set(key, now, nx=True, ex=self._keep_seconds)
        return int(self._redis.get(key) or now)

    def lost(self, task_id: str) -> int:
        """A pool process died over this message; how many have by now."""
        key = f"{LOST}:{task_id}"
        with self._redis.pipeline() as pipe:
            return int(pipe.incr(key).expire(key, self._keep_seconds).execute()[0])

    def _key(self, task_id: str, retries: int) -> str:
        return f"{RECEIPTS}:{task_id}:{retries}"

"""Idempotency records of attempts, so that a message which comes back is not delivered again.

Celery acknowledges a message after its task. A worker that dies in between, or a
visibility timeout that runs out, brings it back although its records are delivered,
or handed over to a retry. Two workers may also have a message at once: it came back
while its task still ran, or was sent twice. The worker that begins first acquires a lease.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from enum import Enum

from redis import Redis
from redis.client import Pipeline

from worker.store.atomic import atomically, once
from worker.store.leases import RELEASE_LEASE
from worker.store.scripts import Script

COMPLETED_ATTEMPTS = "audience:receipts"
RECEIVED = "audience:received"
LEASES = "audience:claims"
SEQUENCE = "audience:sequence"
LOST = "audience:lost"
HANDED_OVER_PREFIX = "handed-over:"
"""The prefix of a record's value whose attempt has sent other messages."""


STAMP = Script(__package__, "sequence")


class IdempotencyState(Enum):
    """The state of an attempt that is about to be made."""

    ACQUIRED = "this worker has the lease"
    IN_PROGRESS = "another worker has the lease, or had it and was lost within the lease"
    COMPLETED = "the attempt is completed"
    HANDED_OVER = "the attempt is completed, and its records were handed over to other messages"


class IdempotencyRecords:
    """Expiring keys of an attempt: a message and how often it was retried before."""

    def __init__(self, redis: Redis, keep_seconds: int, lease_seconds: int) -> None:
        self._redis = redis
        self._keep_seconds = keep_seconds
        self._lease_seconds = lease_seconds

    def acquire(self, task_id: str, retries: int, owner_token: str) -> IdempotencyState:
        """Acquire a lease of the attempt, unless it is completed or another worker has one.

        After a `RedisError` the lease may exist all the same: `release` with `owner_token` ends it.
        """
        return self.acquire_all([task_id], retries, owner_token)[0]

    def acquire_all(self, task_ids: Sequence[str], retries: int, owner_token: str) -> list[IdempotencyState]:
        """Acquire leases as `acquire` does, of so many messages in one round trip."""
        keys = [(self._key(task_id, retries, LEASES), self._key(task_id, retries)) for task_id in task_ids]

        def commands(pipe: Pipeline) -> None:
            for lease, record in keys:
                pipe.set(lease, owner_token, nx=True, ex=self._lease_seconds).get(lease).get(record)

        answers = atomically(self._redis, commands)
        # Not by the answer to `set`: a script whose answer was lost is sent again, and finds its own lease.
        states = list(map(_state, (owner == owner_token for owner in answers[1::3]), answers[2::3]))
        in_vain = [
            lease
            for (lease, _), owner, completed in zip(keys, answers[1::3], answers[2::3], strict=True)
            if owner == owner_token and completed is not None
        ]
        if in_vain:
            self._redis.delete(*in_vain)
        return states

    def release(self, task_id: str, retries: int, owner_token: str) -> None:
        """End the lease of the attempt, if `owner_token` is its owner's."""
        self.release_all([task_id], retries, owner_token)

    def release_all(self, task_ids: Collection[str], retries: int, owner_token: str) -> None:
        """End leases as `release` does, of so many messages in one round trip."""
        if task_ids:
            keys = [self._key(task_id, retries, LEASES) for task_id in task_ids]
            RELEASE_LEASE(self._redis, keys=keys, args=[owner_token])

    def complete(
        self,
        task_id: str,
        retries: int,
        record: Callable[[Redis], object] | None = None,
        *,
        mark: str = "1",
        even_if_full: bool = True,
    ) -> None:
        """Complete the attempt, and run what `record` puts into a pipeline: atomically, and once for a mark.

        It is completed once its records are delivered, handed over to a retry, or dead-lettered. `mark` tells
        one call from another; a repetition after a `RedisError` has the same one.
        """
        self.complete_all([task_id], retries, record, mark=mark, even_if_full=even_if_full)

    def complete_all(
        self,
        task_ids: Sequence[str],
        retries: int,
        record: Callable[[Redis], object] | None = None,
        *,
        mark: str = "1",
        even_if_full: bool = True,
    ) -> None:
        """Complete attempts as `complete` does, all of them atomically. There is at least one."""
        keys = [self._key(task_id, retries) for task_id in task_ids]

        def commands(pipe: Redis) -> None:
            for key in keys:
                pipe.set(key, mark, ex=self._keep_seconds)
            pipe.delete(*[self._key(task_id, retries, LEASES) for task_id in task_ids])
            if record is not None:
                record(pipe)

        once(self._redis, commands, marked=keys[0], mark=mark, even_if_full=even_if_full)

    def is_completed(self, task_id: str, retries: int) -> bool:
        """Whether the attempt is completed."""
        return bool(self._redis.exists(self._key(task_id, retries)))

    def completed(self, task_ids: Sequence[str]) -> set[str]:
        """Those of the messages whose first attempts are completed."""
        keys = [self._key(task_id, 0) for task_id in task_ids]
        # Mostly none is, and the answer to this is one number.
        if not (keys and self._redis.exists(*keys)):
            return set()
        found = self._redis.mget(keys)
        return {task_id for task_id, record in zip(task_ids, found, strict=True) if record is not None}

    def keys_of(self, task_ids: Iterable[str]) -> list[str]:
        """Two keys for each message: one exists while its first attempt is made, or is completed."""
        return [self._key(task_id, 0, kind) for task_id in task_ids for kind in (LEASES, COMPLETED_ATTEMPTS)]

    def record_arrival(self, task_id: str, now: int) -> int:
        """Record when a message was first received (Unix seconds); returns the first `now` of its calls."""
        key = f"{RECEIVED}:{task_id}"
        _, first = atomically(
            self._redis, lambda pipe: pipe.set(key, now, nx=True, ex=self._keep_seconds).get(key)
        )
        return int(first)

    def stamp(self, task_id: str) -> int:
        """Number a message: above all messages before it, and the same when it comes back."""
        (number,) = self.stamp_all([task_id])
        return number

    def stamp_all(self, task_ids: Sequence[str]) -> list[int]:
        """Number several messages as `stamp` does, new ones in their order."""
        keys = [SEQUENCE, *(f"{SEQUENCE}:{task_id}" for task_id in task_ids)]
        return [int(number) for number in STAMP(self._redis, keys=keys, args=[self._keep_seconds])]

    def record_lost_worker(self, task_id: str, retries: int) -> int:
        """Count a pool process that died over this attempt. Returns how many died over the message."""
        key = f"{LOST}:{task_id}"
        lease = self._key(task_id, retries, LEASES)
        deaths, *_ = atomically(
            self._redis, lambda pipe: pipe.incr(key).expire(key, self._keep_seconds).delete(lease)
        )
        return int(deaths)

    def _key(self, task_id: str, retries: int, kind: str = COMPLETED_ATTEMPTS) -> str:
        return f"{kind}:{task_id}:{retries}"


def _state(is_owner: bool, completed: str | None) -> IdempotencyState:
    if completed is not None:
        has_handed_over = str(completed).startswith(HANDED_OVER_PREFIX)
        return IdempotencyState.HANDED_OVER if has_handed_over else IdempotencyState.COMPLETED
    return IdempotencyState.ACQUIRED if is_owner else IdempotencyState.IN_PROGRESS

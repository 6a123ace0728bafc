"""Which attempts are done with, so that a message which comes back is not delivered again.

Celery acknowledges a message after its task. A worker that dies in between, or a
visibility timeout that runs out, brings it back although its records are delivered,
or handed over to a retry. A message may also be in two hands at once: it came back
while its task still ran, or was sent twice. The one who begins first claims it.
"""

from enum import Enum

from redis import Redis

from worker.redis_steps import in_one_step

RECEIPTS = "audience:receipts"
RECEIVED = "audience:received"
CLAIMS = "audience:claims"
LOST = "audience:lost"

RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
    redis.call('DEL', KEYS[1])
end
"""


class Standing(Enum):
    """What is known of an attempt that is about to be made."""

    CLAIMED = "nobody has made it, and nobody else makes it now"
    ELSEWHERE = "somebody makes it now, or has died over it a moment ago"
    DONE = "it has been made"


class Receipts:
    """Expiring keys of an attempt: a message and how often it was retried before."""

    def __init__(self, redis: Redis, keep_seconds: int, claim_seconds: int) -> None:
        self._redis = redis
        self._keep_seconds = keep_seconds
        self._claim_seconds = claim_seconds
        self._release = redis.register_script(RELEASE)

    def begin(self, task_id: str, retries: int, claimant: str) -> Standing:
        """Claim the attempt, unless it is done with or somebody else has it in hand.

        Where this fails, the claim may be made all the same: `claimant` can release it.
        """
        claim, receipt = self._key(task_id, retries, CLAIMS), self._key(task_id, retries)
        claimed, issued = in_one_step(
            self._redis,
            lambda pipe: pipe.set(claim, claimant, nx=True, ex=self._claim_seconds).exists(receipt),
        )
        if issued:
            if claimed:
                self._redis.delete(claim)
            return Standing.DONE
        return Standing.CLAIMED if claimed else Standing.ELSEWHERE

    def release(self, task_id: str, retries: int, claimant: str) -> None:
        """The attempt is not made by whoever claimed it, if it was this one."""
        self._release(keys=[self._key(task_id, retries, CLAIMS)], args=[claimant])

    def issue(self, task_id: str, retries: int, pipe: Redis) -> None:
        """The attempt is done with: delivered, handed over to a retry, or a dead letter."""
        pipe.set(self._key(task_id, retries), 1, ex=self._keep_seconds)
        pipe.delete(self._key(task_id, retries, CLAIMS))

    def issued(self, task_id: str, retries: int) -> bool:
        """Whether the attempt was done with before."""
        return bool(self._redis.exists(self._key(task_id, retries)))

    def received_at(self, task_id: str, now: int) -> int:
        """When a message was first received (Unix seconds): the first `now` that is said of it."""
        key = f"{RECEIVED}:{task_id}"
        _, first = in_one_step(
            self._redis, lambda pipe: pipe.set(key, now, nx=True, ex=self._keep_seconds).get(key)
        )
        return int(first)

    def lost(self, task_id: str, retries: int) -> int:
        """A pool process died over this attempt; over how many of the message's by now."""
        key = f"{LOST}:{task_id}"
        claim = self._key(task_id, retries, CLAIMS)
        deaths, *_ = in_one_step(
            self._redis, lambda pipe: pipe.incr(key).expire(key, self._keep_seconds).delete(claim)
        )
        return int(deaths)

    def _key(self, task_id: str, retries: int, kind: str = RECEIPTS) -> str:
        return f"{kind}:{task_id}:{retries}"

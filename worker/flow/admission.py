"""Whether a batch may go to its stream now: the stream's breaker, and its quota in the whole fleet.

The quota is what Firehose allows a stream, whoever sends. What was admitted is kept as a level
that falls at the quota's pace: one for requests, records and bytes each (a leaky bucket), and
the time at which they were as high. So a quota that is changed counts at once. All is one script,
so that it costs one question a batch and no two workers take the same share.
"""

from collections.abc import Callable
from typing import NamedTuple

from redis import Redis

from schemas.quotas import Quota
from worker.flow.circuit_breakers import FURTHEST, OPEN, PAUSED
from worker.queues import Stream
from worker.store.atomic import BEGIN

USED = "audience:quota"
"""By stream: what it has used of its quota, of each kind, and when that was so (Unix seconds)."""
PROBE = 2
"""What the script answers to a batch that probes a stream."""
BURST_SECONDS = 0.1
"""How much of its quota a stream may take in advance. With batches of a tenth of a second at most,
it takes 104 % in its worst five seconds, and a worker that wakes late wastes nothing."""
PROBE_SECONDS = 40.0
"""Until another batch may probe, if nothing is heard of the first: above Firehose's longest answer."""
CLOCKS_DIFFER = 60.0
"""Seconds. What was used at a time further away was noted by a clock that has been put back since."""
ASK = (
    BEGIN
    + """
local queue, message_id, may_probe, now = ARGV[1], ARGV[2], ARGV[3] == '1', tonumber(ARGV[4])
local probe, burst, furthest, clocks_differ = unpack(ARGV, 5, 8)
local first_share = 9
if redis.call('HEXISTS', KEYS[1], queue) == 1 then return {0, 'inf'} end

local text = redis.call('HGET', KEYS[2], queue)
local breaker
if text then
    local known
    known, breaker = pcall(cjson.decode, text)
    if not known or type(breaker) ~= 'table' or type(breaker['until']) ~= 'number' then return {0, 'inf'} end
    local left = breaker['until'] - now
    if left > 0 and left <= tonumber(furthest) then return {0, tostring(left)} end
    if not may_probe then return {0, 'inf'} end
end

local used = redis.call('HMGET', KEYS[3], 'used_requests', 'used_records', 'used_bytes', 'used_at')
local used_at = tonumber(used[4] or '') or now
if used_at > now + clocks_differ then
    used_at = now
    redis.call('HSET', KEYS[3], 'used_at', ('%.6f'):format(now))
end
local ahead, passed = math.max(used_at - now, 0), math.max(now - used_at, 0)
local wait, after = 0, 0
for kind = 1, 3 do
    local cost, quota = unpack(ARGV, first_share + 2 * (kind - 1))
    local level = math.max((tonumber(used[kind] or '') or 0) - passed * quota, 0)
    used[kind] = level + cost
    wait = math.max(wait, level / quota + ahead - burst)
    after = math.max(after, used[kind] / quota + ahead - burst)
end
if wait > 0 then return {0, tostring(wait)} end

redis.call('HSET', KEYS[3], 'used_requests', ('%.6f'):format(used[1]), 'used_records',
    ('%.6f'):format(used[2]), 'used_bytes', ('%.6f'):format(used[3]), 'used_at', ('%.6f'):format(now + ahead))
redis.call('EXPIRE', KEYS[3], math.ceil(after) + 60)
if breaker then
    breaker['until'], breaker['probing'], breaker['prober'] = now + probe, true, message_id
    redis.call('HSET', KEYS[2], queue, cjson.encode(breaker))
end
return {breaker and 2 or 1, tostring(after)}
"""
)


class Cost(NamedTuple):
    """What a batch takes of its stream's quota, besides its one request."""

    records: int
    bytes: int


class Decision(NamedTuple):
    """Whether a batch is admitted."""

    admitted: bool
    wait: float
    """Seconds until there is a point in asking again: for this batch, or for the next one where this one
    was admitted. Infinite where the stream is closed until it is resumed, or may not be probed."""
    is_probe: bool = False
    """Whether what becomes of the batch decides about the stream's breaker."""


class Admission:
    """The way to the streams. Clocks of the fleet's machines should agree, as NTP has them."""

    def __init__(self, redis: Redis, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ask = redis.register_script(ASK)

    def acquire(
        self, stream: Stream, cost: Cost, quota: Quota, may_probe: bool = True, message_id: str = ""
    ) -> Decision:
        """Admit a message's batch of this size, or say how long to wait. An admitted one counts as sent."""
        limits = (PROBE_SECONDS, BURST_SECONDS, FURTHEST, CLOCKS_DIFFER)
        shares = (1, quota.requests, cost.records, quota.records, cost.bytes, quota.bytes)
        admitted, wait = self._ask(
            keys=[PAUSED, OPEN, f"{USED}:{stream.queue}"],
            args=[stream.queue, message_id, int(may_probe), self._clock(), *limits, *shares],
        )
        return Decision(bool(admitted), float(wait), is_probe=admitted == PROBE)

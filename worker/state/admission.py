"""Whether a batch may go to its stream now: the stream's gate, and its quota in the whole fleet.

The quota is what Firehose allows a stream, whoever sends. It is kept as the time until which
what was admitted has used it up: one for requests, records and bytes each (the generic cell
rate algorithm). All is one script, so that it costs one question a batch and no two workers
take the same share.
"""

from collections.abc import Callable
from typing import NamedTuple

from redis import Redis

from worker.firehose.quotas import Quota
from worker.queues import Stream
from worker.redis_steps import BEGIN
from worker.state.gates import GATES, TIMED_GATES

USED = "audience:quota"
"""By stream: until when it has used up its quota (Unix seconds), of each kind."""
PROBE = 2
"""What the script answers to a batch that probes a stream."""
BURST_SECONDS = 0.1
"""How much of its quota a stream may take in advance. With batches of a tenth of a second at most,
it takes 104 % in its worst five seconds, and a worker that wakes late wastes nothing."""
PROBE_SECONDS = 40.0
"""Until another batch may probe, if nothing is heard of the first: above Firehose's longest answer."""
ASK = (
    BEGIN
    + """
local queue, now, probe, burst = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if redis.call('HEXISTS', KEYS[1], queue) == 1 then return {0, 'inf'} end

local text = redis.call('HGET', KEYS[2], queue)
local gate
if text then
    local known
    known, gate = pcall(cjson.decode, text)
    if not known or type(gate) ~= 'table' or type(gate['until']) ~= 'number' then return {0, 'inf'} end
    if now < gate['until'] then return {0, tostring(gate['until'] - now)} end
    if ARGV[5] == '0' then return {0, 'inf'} end
end

local used = redis.call('HMGET', KEYS[3], 'requests', 'records', 'bytes')
local wait, after, uses = 0, 0, {}
for kind = 1, 3 do
    local free = math.max(tonumber(used[kind] or '') or 0, now)
    uses[kind] = free + ARGV[4 + 2 * kind] / ARGV[5 + 2 * kind]
    wait = math.max(wait, free - now - burst)
    after = math.max(after, uses[kind] - now - burst)
end
if wait > 0 then return {0, tostring(wait)} end

redis.call('HSET', KEYS[3], 'requests', ('%.6f'):format(uses[1]), 'records', ('%.6f'):format(uses[2]),
    'bytes', ('%.6f'):format(uses[3]))
redis.call('EXPIRE', KEYS[3], math.ceil(after) + 60)
if gate then
    gate['until'], gate['probing'] = now + probe, true
    redis.call('HSET', KEYS[2], queue, cjson.encode(gate))
end
return {gate and 2 or 1, tostring(after)}
"""
)


class Cost(NamedTuple):
    """What a batch takes of its stream's quota, besides its one request."""

    records: int
    bytes: int


class Answer(NamedTuple):
    """What is said to a batch."""

    admitted: bool
    wait: float
    """Seconds until there is a point in asking again: for this batch, or for the next one where this one
    was admitted. Infinite where the stream is closed until it is resumed, or may not be probed."""
    is_probe: bool = False
    """Whether what becomes of the batch decides about the stream's gate."""


class Admission:
    """The way to the streams. Clocks of the fleet's machines should agree, as NTP has them."""

    def __init__(self, redis: Redis, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ask = redis.register_script(ASK)

    def ask(self, stream: Stream, cost: Cost, quota: Quota, may_probe: bool = True) -> Answer:
        """May a batch of this size go now? Where yes, it counts as sent."""
        shares = (1, quota.requests, cost.records, quota.records, cost.bytes, quota.bytes)
        admitted, wait = self._ask(
            keys=[GATES, TIMED_GATES, f"{USED}:{stream.queue}"],
            args=[stream.queue, self._clock(), PROBE_SECONDS, BURST_SECONDS, int(may_probe), *shares],
        )
        return Answer(bool(admitted), float(wait), is_probe=admitted == PROBE)

-- Admit a batch to its stream, or say how long to wait: look at the stream's circuit breaker, then spend its
-- quota.
--
-- The quota is a leaky bucket for each of three kinds: requests, records and bytes. Of each kind a level is
-- stored, which falls at the pace of the quota. So a changed quota counts at once, for earlier batches too.
--
-- KEYS[1]  hash of paused streams: queue -> breaker as JSON
-- KEYS[2]  hash of breakers that are open until a time: queue -> breaker as JSON
-- KEYS[3]  hash of what the stream has used: used_requests, used_records, used_bytes, and used_at, the Unix
--          seconds at which the levels were so
-- KEYS[4]  a key that never exists: deleting it is a write that a full Redis allows, and others may follow it
-- ARGV[1]  the stream's queue
-- ARGV[2]  ID of the batch's message
-- ARGV[3]  1 where the batch may be a probe, else 0
-- ARGV[4]  now, in Unix seconds
-- ARGV[5]  seconds until a probe is taken for lost
-- ARGV[6]  seconds of its quota that a stream may take in advance
-- ARGV[7]  seconds for which a breaker can be open at most; a later time is that of a clock put back since
-- ARGV[8]  seconds by which used_at can be ahead at most, for the same reason
-- ARGV[9…] for requests, records and bytes: what the batch costs, and the quota a second
-- Returns {answer, wait, is_closed}.
--   answer  0 not admitted, 1 admitted, 2 admitted as the probe
--   wait    seconds, as text, until there is a point in trying again, or until the next batch may go where
--           this one was admitted; 'inf' where the stream is paused, where its breaker is corrupt, or where
--           only a probe may go and this batch may not be it
--   is_closed  1 where the stream's breaker is closed, else 0
redis.call('DEL', KEYS[4])
local queue, message_id, may_probe, now = ARGV[1], ARGV[2], ARGV[3] == '1', tonumber(ARGV[4])
local probe_timeout, burst, longest_open, longest_ahead = unpack(ARGV, 5, 8)
local first_cost = 9
if redis.call('HEXISTS', KEYS[1], queue) == 1 then return {0, 'inf', 0} end

local text = redis.call('HGET', KEYS[2], queue)
local breaker
if text then
    local readable
    readable, breaker = pcall(cjson.decode, text)
    local is_valid = readable and type(breaker) == 'table' and type(breaker['until']) == 'number'
    if not is_valid then return {0, 'inf', 0} end
    local left = breaker['until'] - now
    if left > 0 and left <= tonumber(longest_open) then return {0, tostring(left), 0} end
    if not may_probe then return {0, 'inf', 0} end
end

local used = redis.call('HMGET', KEYS[3], 'used_requests', 'used_records', 'used_bytes', 'used_at')
local used_at = tonumber(used[4] or '') or now
if used_at > now + longest_ahead then
    used_at = now
    redis.call('HSET', KEYS[3], 'used_at', ('%.6f'):format(now))
end
local ahead, passed = math.max(used_at - now, 0), math.max(now - used_at, 0)
local wait, after = 0, 0
for kind = 1, 3 do
    local cost, quota = unpack(ARGV, first_cost + 2 * (kind - 1))
    local level = math.max((tonumber(used[kind] or '') or 0) - passed * quota, 0)
    used[kind] = level + cost
    wait = math.max(wait, level / quota + ahead - burst)
    after = math.max(after, used[kind] / quota + ahead - burst)
end
if wait > 0 then return {0, tostring(wait), breaker and 0 or 1} end

redis.call('HSET', KEYS[3], 'used_requests', ('%.6f'):format(used[1]), 'used_records',
    ('%.6f'):format(used[2]), 'used_bytes', ('%.6f'):format(used[3]), 'used_at', ('%.6f'):format(now + ahead))
redis.call('EXPIRE', KEYS[3], math.ceil(after) + 60)
if breaker then
    breaker['until'], breaker['probing'], breaker['prober'] = now + probe_timeout, true, message_id
    redis.call('HSET', KEYS[2], queue, cjson.encode(breaker))
end
return {breaker and 2 or 1, tostring(after), breaker and 0 or 1}

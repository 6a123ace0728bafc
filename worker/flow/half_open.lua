-- Make the breaker of a paused stream HALF_OPEN: the next batch probes the stream. An operator's pause stays.
--
-- KEYS[1]  hash of paused streams: queue -> breaker as JSON
-- KEYS[2]  hash of breakers that are open until a time: queue -> breaker as JSON
-- KEYS[3]  a key that never exists: deleting it is a write that a full Redis allows, and others may follow it
-- ARGV[1]  the stream's queue
-- ARGV[2]  now, in Unix seconds
-- ARGV[3]  the reason that stands for an operator
-- ARGV[4]  the breaker to store where the one that is there is corrupt, as JSON
-- Returns 1, or 0 where the stream was not paused, or was paused by an operator.
redis.call('DEL', KEYS[3])
local queue, now, operator, otherwise = unpack(ARGV)
local text = redis.call('HGET', KEYS[1], queue)
if not text then return 0 end
local readable, breaker = pcall(cjson.decode, text)
if not (readable and type(breaker) == 'table' and breaker['reason'] and breaker['since']) then
    breaker = cjson.decode(otherwise)
end
if breaker['reason'] == operator then return 0 end
breaker['until'], breaker['failures'], breaker['probing'] = tonumber(now), 1, false
redis.call('HDEL', KEYS[1], queue)
redis.call('HSET', KEYS[2], queue, cjson.encode(breaker))
return 1

-- Pause a stream until somebody resumes it. An operator's pause is not replaced by another reason, so that no
-- passing `test` resumes what an operator has paused.
--
-- KEYS[1]  hash of paused streams: queue -> breaker as JSON
-- KEYS[2]  a key that never exists: deleting it is a write that a full Redis allows, and others may follow it
-- ARGV[1]  the stream's queue
-- ARGV[2]  the breaker to store, as JSON
-- ARGV[3]  its reason
-- ARGV[4]  the reason that stands for an operator
-- Returns nothing.
redis.call('DEL', KEYS[2])
local queue, breaker, reason, operator = unpack(ARGV)
local readable, before = pcall(cjson.decode, redis.call('HGET', KEYS[1], queue) or '')
local is_operators = readable and type(before) == 'table' and before['reason'] == operator
if is_operators and reason ~= operator then return end
redis.call('HSET', KEYS[1], queue, breaker)

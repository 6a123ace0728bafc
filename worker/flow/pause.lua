-- Pause a stream until somebody resumes it. Nothing replaces an operator's pause: no passing `test` resumes what
-- an operator has paused, and a second `pause` leaves it as old as it is.
--
-- KEYS[1]  hash of paused streams: queue -> breaker as JSON
-- KEYS[2]  a key that never exists: deleting it is a write that a full Redis allows, and others may follow it
-- ARGV[1]  the stream's queue
-- ARGV[2]  the breaker to store, as JSON
-- ARGV[3]  the reason that stands for an operator
-- Returns nothing.
redis.call('DEL', KEYS[2])
local queue, breaker, operator = unpack(ARGV)
local readable, before = pcall(cjson.decode, redis.call('HGET', KEYS[1], queue) or '')
local is_operators = readable and type(before) == 'table' and before['reason'] == operator
if is_operators then return end
redis.call('HSET', KEYS[1], queue, breaker)

-- End a probe that has learned nothing of its stream, so that the next message may be the probe.
--
-- KEYS[1]  hash of breakers that are open until a time: queue -> breaker as JSON
-- KEYS[2]  a key that never exists: deleting it is a write that a full Redis allows, and others may follow it
-- ARGV[1]  the stream's queue
-- ARGV[2]  ID of the message that ends; nothing changes unless it is the probe
-- ARGV[3]  now, in Unix seconds
-- Returns nothing.
redis.call('DEL', KEYS[2])
local queue, message_id, now = unpack(ARGV)
local readable, breaker = pcall(cjson.decode, redis.call('HGET', KEYS[1], queue) or '')
local is_open = readable and type(breaker) == 'table'
-- As in record_failure.lua: a probe of which no ID is known may be any message.
local prober = is_open and breaker['prober'] or ''
local is_probe = is_open and breaker['probing'] == true and (prober == '' or prober == message_id)

if not is_probe then return end
breaker['until'], breaker['probing'], breaker['prober'] = tonumber(now), false, nil
redis.call('HSET', KEYS[1], queue, cjson.encode(breaker))

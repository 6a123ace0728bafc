-- Open a stream's circuit breaker after a failure, or keep it open for longer after a failed probe. Any other
-- failure of a stream whose breaker is open was on its way when it opened, and changes nothing.
--
-- KEYS[1]  hash of breakers that are open until a time: queue -> breaker as JSON
-- KEYS[2]  a key that never exists: deleting it is a write that a full Redis allows, and others may follow it
-- ARGV[1]  the stream's queue
-- ARGV[2]  ID of the message that failed
-- ARGV[3]  now, in Unix seconds
-- ARGV[4]  reason
-- ARGV[5]  now, in ISO 8601
-- ARGV[6]  JSON list: after the nth failure in a row, the seconds for which the breaker is open
-- Returns the number of failures in a row.
redis.call('DEL', KEYS[2])
local queue, message_id, now, reason, since, durations = unpack(ARGV)
durations = cjson.decode(durations)
local readable, breaker = pcall(cjson.decode, redis.call('HGET', KEYS[1], queue) or '')
local is_open = readable and type(breaker) == 'table'
-- As in release_probe.lua: a probe of which no ID is known may be any message.
local prober = is_open and breaker['prober'] or ''
local is_probe = is_open and breaker['probing'] == true and (prober == '' or prober == message_id)

if is_open and not is_probe then return tonumber(breaker['failures']) or 0 end
if not is_open then breaker = {since = since} end
breaker['failures'] = (tonumber(breaker['failures']) or 0) + 1
breaker['until'] = tonumber(now) + durations[math.min(breaker['failures'], #durations)]
breaker['reason'], breaker['probing'], breaker['prober'] = reason, false, nil
redis.call('HSET', KEYS[1], queue, cjson.encode(breaker))
return breaker['failures']

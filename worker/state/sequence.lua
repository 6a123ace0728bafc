-- Stamp a message with its sequence number, once: the first number that is given to it stays.
-- A number is the server's clock in microseconds, or one more than the last number where that is greater. So it
-- grows when the clock is put back, and when a failover to a replica has lost the last numbers.
--
-- KEYS[1]  the number of this message
-- KEYS[2]  the last number that was given
-- ARGV[1]  seconds for which the message's number is kept
-- Returns  the message's number, decimal

local known = redis.call('GET', KEYS[1])
if known then return known end
local time = redis.call('TIME')
local last = tonumber(redis.call('GET', KEYS[2]) or '') or 0
local number = ('%.0f'):format(math.max(time[1] * 1000000 + time[2], last + 1))
redis.call('SET', KEYS[2], number)
redis.call('SET', KEYS[1], number, 'EX', ARGV[1])
return number

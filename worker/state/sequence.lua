-- Stamp messages with their sequence numbers, once: the first number that is given to one stays.
-- A number is the server's clock in microseconds, or one more than the last number where that is greater. So it
-- grows when the clock is put back, and when a failover to a replica has lost the last numbers.
--
-- KEYS[1]   the last number that was given
-- KEYS[2…]  the numbers of the messages
-- ARGV[1]   seconds for which a message's number is kept
-- Returns   the messages' numbers, decimal

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local last = tonumber(redis.call('GET', KEYS[1]) or '') or 0
local numbers = {}
for i = 2, #KEYS do
    local known = redis.call('GET', KEYS[i])
    if not known then
        last = math.max(now, last + 1)
        known = ('%.0f'):format(last)
        redis.call('SET', KEYS[1], known)
        redis.call('SET', KEYS[i], known, 'EX', ARGV[1])
    end
    numbers[i - 1] = known
end
return numbers

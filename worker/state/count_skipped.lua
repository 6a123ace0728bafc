-- Add to the counts of skipped audiences, and keep a bounded number of audience ids.
--
-- KEYS[1]  hash of one reason: audience id to records, and the field of the sum of further audiences
-- ARGV[1]  how many fields the hash holds at most, besides the sum
-- ARGV[2]  the field of the sum
-- ARGV[3…] pairs: audience id, records to add
-- Returns  nothing

local most, others = tonumber(ARGV[1]), ARGV[2]
local room = most - redis.call('HLEN', KEYS[1]) + redis.call('HEXISTS', KEYS[1], others)
for at = 3, #ARGV, 2 do
    local field = ARGV[at]
    if redis.call('HEXISTS', KEYS[1], field) == 0 then
        if room > 0 then
            room = room - 1
        else
            field = others
        end
    end
    redis.call('HINCRBY', KEYS[1], field, ARGV[at + 1])
end

-- Read the counters of many streams in one answer, which costs its reader a fraction of many hashes.
--
-- KEYS[1…]  pairs: the hash of a stream's counters, and the hash of its records that wait for a retry
-- Returns   JSON: for each pair an array of the counters' fields and values in turn, and the sum of the other

local MAX_DIGITS = 15 -- of an integer that a double holds
local answers = {}
for at = 1, #KEYS, 2 do
    local retrying = 0
    for _, records in ipairs(redis.call('HVALS', KEYS[at + 1])) do
        -- A corrupt one may be 'nan' or '1e999', which Lua takes for numbers and JSON does not know.
        retrying = retrying + (records:match('^%d+$') and #records <= MAX_DIGITS and tonumber(records) or 0)
    end
    answers[#answers + 1] = {redis.call('HGETALL', KEYS[at]), retrying}
end
return cjson.encode(answers)

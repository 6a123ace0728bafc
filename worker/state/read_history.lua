-- Read the figures of many streams in one answer, which costs its reader a fraction of many hashes.
--
-- KEYS[1…]  pairs: the hash of a stream's figures of the hour before, and that of this hour
-- Returns   JSON: for each key an array of the hash's fields and values in turn

local answers = {}
for at, key in ipairs(KEYS) do
    answers[at] = redis.call('HGETALL', key)
end
return cjson.encode(answers)

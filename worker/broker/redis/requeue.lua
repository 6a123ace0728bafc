-- Requeue reserved messages: remove their records and push the messages into their lists, atomically.
-- Nothing happens to a message that was acknowledged, or requeued and reserved again, in the meantime.
-- The first write is ZREM, which a full Redis allows; kombu uses a transaction, which a full Redis refuses.
-- A message that its list refuses, as one that is of another type now, stays reserved from now on.
--
-- KEYS[1]  sorted set: delivery tag -> time of the reservation
-- KEYS[2]  hash: delivery tag -> recorded message
-- KEYS[3]  sorted set: list that is not empty -> number of its entry
-- KEYS[4]  the number of the last entry
-- KEYS[5…] lists that take the messages
-- ARGV[1]  LPUSH (last in line) or RPUSH (next in line)
-- ARGV[2]  Unix seconds: a message reserved later than this stays reserved
-- ARGV[3…] of each message, in the order in which they are pushed: delivery tag; position of its list in KEYS, or 0
--          where the caller has found no record; the message as it will be there; 1 where that list belongs in the
--          index, 0 otherwise
-- Returns  the names of the lists that have refused a message, each followed by the error

local refusals = {}
for at = 3, #ARGV, 4 do
    local tag, list, message, is_indexed = ARGV[at], KEYS[tonumber(ARGV[at + 1])], ARGV[at + 2], ARGV[at + 3]
    local is_reserved_again = tonumber(redis.call('ZSCORE', KEYS[1], tag) or 0) > tonumber(ARGV[2])
        or (not list and redis.call('HEXISTS', KEYS[2], tag) == 1)
    if not is_reserved_again then
        redis.call('ZREM', KEYS[1], tag)
        if redis.call('HEXISTS', KEYS[2], tag) == 1 then
            local length = redis.pcall(ARGV[1], list, message)
            if type(length) == 'number' then
                redis.call('HDEL', KEYS[2], tag)
                if is_indexed == '1' then add_to_index(KEYS[3], KEYS[4], list, length == 1) end
            else
                redis.call('ZADD', KEYS[1], redis.call('TIME')[1], tag)
                refusals[#refusals + 1] = list
                refusals[#refusals + 1] = length.err
            end
        end
    end
end
return refusals

-- Requeue a reserved message: remove its record and push the message into its list, atomically.
-- Nothing happens to a message that was acknowledged, or requeued and reserved again, in the meantime.
-- The first write is ZREM, which a full Redis allows; kombu uses a transaction, which a full Redis refuses.
--
-- KEYS[1]  sorted set: delivery tag -> time of the reservation
-- KEYS[2]  hash: delivery tag -> recorded message
-- KEYS[3]  sorted set: list that is not empty -> number of its entry
-- KEYS[4]  the number of the last entry
-- KEYS[5…] lists that take the message
-- ARGV[1]  delivery tag
-- ARGV[2]  Unix seconds: a message reserved later than this stays reserved
-- ARGV[3]  LPUSH (last in line) or RPUSH (next in line)
-- ARGV[4]  the message as it will be in the lists
-- ARGV[5]  1 where the lists belong in the index, 0 otherwise
-- Returns  nil

if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0) > tonumber(ARGV[2]) then return end
redis.call('ZREM', KEYS[1], ARGV[1])
if redis.call('HDEL', KEYS[2], ARGV[1]) == 1 then
    for i = 5, #KEYS do
        local length = redis.call(ARGV[3], KEYS[i], ARGV[4])
        if ARGV[5] == '1' then add_to_index(KEYS[3], KEYS[4], KEYS[i], length == 1) end
    end
end

-- Write something, in a full Redis, too. It is a write by which WAIT knows how far replicas must be.
--
-- KEYS[1]  the key that is written
-- ARGV[1]  what it is to hold
-- Returns  nil

redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1])

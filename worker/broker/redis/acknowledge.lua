-- Acknowledge reserved messages: remove their records. Both writes are allowed in a full Redis.
--
-- KEYS[1]  sorted set: delivery tag -> time of the reservation
-- KEYS[2]  hash: delivery tag -> recorded message
-- ARGV[1…] delivery tags, of which Lua takes some thousand at a time
-- Returns  nil

redis.call('ZREM', KEYS[1], unpack(ARGV))
redis.call('HDEL', KEYS[2], unpack(ARGV))

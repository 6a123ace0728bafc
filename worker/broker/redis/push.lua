-- Push a message into a queue, add a stream's queue to the index, and mark the attempt that the message takes the
-- place of, atomically.
-- PERSIST changes nothing (the key has no expiry) but is a write that a full Redis allows; after it the
-- script may go on.
--
-- KEYS[1]  list of messages
-- KEYS[2]  sorted set: list that is not empty -> number of its entry; unused where ARGV[3] is 0
-- KEYS[3]  the number of the last entry; unused where ARGV[3] is 0
-- KEYS[4]  the mark of the attempt; unused where ARGV[4] is 0
-- ARGV[1]  message
-- ARGV[2]  1 where a full Redis must take the message, 0 where it refuses it
-- ARGV[3]  1 where the list belongs in the index, 0 otherwise
-- ARGV[4]  seconds for which the mark is kept; 0 where there is none
-- Returns  nil

if ARGV[2] == '1' then redis.call('PERSIST', KEYS[1]) end
local length = redis.call('LPUSH', KEYS[1], ARGV[1])
if ARGV[3] == '1' then add_to_index(KEYS[2], KEYS[3], KEYS[1], length == 1) end
if ARGV[4] ~= '0' then redis.call('SET', KEYS[4], 1, 'EX', ARGV[4]) end

-- Read a part of a field, so that nobody holds all of a large one.
--
-- KEYS[1]  hash
-- ARGV[1]  field
-- ARGV[2]  one-based position of the first byte
-- ARGV[3]  one-based position of the last byte
-- Returns  the bytes; an empty string behind the end and where there is no such field

local bytes = redis.call('HGET', KEYS[1], ARGV[1])
return bytes and bytes:sub(ARGV[2], ARGV[3]) or ''

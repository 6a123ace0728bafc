-- Write or remove an entry of the registry, unless another process has written one since a version.
--
-- KEYS[1]  the version, which each write increments
-- KEYS[2]  hash: name -> its entry (JSON)
-- KEYS[3]  a key that never exists: deleting it is a write that a full Redis allows
-- ARGV[1]  the version that the entry was made from; '' where there was none
-- ARGV[2]  name
-- ARGV[3]  entry; '' to remove it
-- Returns  1 where that is done, 0 where the version is another

redis.call('DEL', KEYS[3])
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[2], ARGV[2])
else
  redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
end
redis.call('INCR', KEYS[1])
return 1

-- Replace what a run in the outbox has made, unless another worker has finished and removed it.
--
-- KEYS[1]    hash: ID of a run in the outbox -> what it made
-- ARGV[1]    ID of the run
-- ARGV[2]    what is left of what it made
-- Returns    1 where it is replaced, else 0

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1

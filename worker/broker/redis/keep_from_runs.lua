-- Keep a message from runs: note that it is run alone, so that no run hands it over. Nothing happens where a run has
-- completed it.
--
-- KEYS[1]    the current set of the idempotency keys of messages that are run alone
-- KEYS[2…]   the sets of the idempotency keys of completed messages
-- ARGV[1]    the message's idempotency key
-- ARGV[2]    seconds for which the current set is kept
-- Returns    1 where the message is kept from runs, 0 where a run has completed it

for set = 2, #KEYS do
    if redis.call('SISMEMBER', KEYS[set], ARGV[1]) == 1 then return 0 end
end
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1

-- Ends a lease, where it is still the caller's.
--
-- KEYS[1]  the lease
-- ARGV[1]  the caller's owner token
--
-- Returns nothing.

if redis.call('GET', KEYS[1]) == ARGV[1] then
    redis.call('DEL', KEYS[1])
end

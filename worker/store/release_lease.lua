-- End leases, each where it is still the caller's.
--
-- KEYS[1…]  the leases
-- ARGV[1]   the caller's owner token
-- Returns   nothing

for _, lease in ipairs(KEYS) do
    if redis.call('GET', lease) == ARGV[1] then redis.call('DEL', lease) end
end

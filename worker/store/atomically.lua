-- Run commands one after the other, as a transaction would; an error of one does not stop the others.
--
-- KEYS[1]   a key that never exists: deleting it is a write that a full Redis allows, and others may follow it
-- KEYS[2…]  the keys of the commands, in the order of the commands
-- ARGV[1]   1 where a full Redis must run the commands, too; 0 where they only read
-- ARGV[2…]  of each command, the number of its keys, the number of its words after them, its name, and those words
-- Returns   the answers, an error among them as an error

if ARGV[1] == '1' then redis.call('DEL', KEYS[1]) end
local answers, key, at = {}, 2, 2
while at <= #ARGV do
    local next_key, next_at = key + ARGV[at], at + 3 + ARGV[at + 1]
    local command = {ARGV[at + 2], unpack(KEYS, key, next_key - 1)}
    for word = at + 3, next_at - 1 do command[#command + 1] = ARGV[word] end
    answers[#answers + 1] = redis.pcall(unpack(command))
    key, at = next_key, next_at
end
return answers

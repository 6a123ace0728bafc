-- Run commands one after the other, unless they ran before for the same mark.
--
-- A client that has lost a script's answer sends the script again, whether or not it ran.
--
-- KEYS[1]   a key that never exists: deleting it is a write that a full Redis allows, and others may follow it
-- KEYS[2]   the key that the first command sets to the mark
-- KEYS[3…]  the keys of the commands, in the order of the commands
-- ARGV[1]   1 where a full Redis must run the commands, too; 0 where it refuses all of them, for which the first
--           command must be one that it refuses
-- ARGV[2]   the mark
-- ARGV[3…]  of each command, the number of its keys, the number of its words after them, its name, and those words
-- Returns   the answers, an error among them as an error; none where the commands ran before. An error of the first
--           command is the script's, and none has run

if redis.call('GET', KEYS[2]) == ARGV[2] then return {} end
if ARGV[1] == '1' then redis.call('DEL', KEYS[1]) end
local answers, key, at = {}, 3, 3
while at <= #ARGV do
    local next_key, next_at = key + ARGV[at], at + 3 + ARGV[at + 1]
    local command = {ARGV[at + 2], unpack(KEYS, key, next_key - 1)}
    for word = at + 3, next_at - 1 do command[#command + 1] = ARGV[word] end
    local run = at == 3 and redis.call or redis.pcall
    answers[#answers + 1] = run(unpack(command))
    key, at = next_key, next_at
end
return answers

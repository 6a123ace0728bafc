-- Runs commands one after the other, unless they ran before for the same mark.
--
-- A client that has lost a script's answer sends the script again, whether or not it ran.
--
-- KEYS  1 nothing       never set: deleting it is a write that a full Redis allows, and others may follow it
--       2 marked        the key that the first command sets to the mark
--       then the keys of the commands
-- ARGV  1 even if full  '1' where a full Redis must run the commands too; '0' where it refuses all of them, for
--                       which the first command must be one that it refuses
--       2 mark
--       then, of each command, the number of its words, and the words
--
-- Returns the answers, an error among them as an error; none where the commands ran before. An error of the first
-- command is the script's, and none has run.

if redis.call('GET', KEYS[2]) == ARGV[2] then return {} end
if ARGV[1] == '1' then redis.call('DEL', KEYS[1]) end
local answers, at = {}, 3
while at <= #ARGV do
    local last = at + ARGV[at]
    local run = at == 3 and redis.call or redis.pcall
    answers[#answers + 1] = run(unpack(ARGV, at + 1, last))
    at = last + 1
end
return answers

-- Runs commands one after the other, as a transaction would; an error of one does not stop the others.
--
-- KEYS  1 nothing       never set: deleting it is a write that a full Redis allows, and others may follow it
--       then the keys of the commands
-- ARGV  1 even if full  '1' where a full Redis must run the commands too; '0' where they only read
--       then, of each command, the number of its words, and the words
--
-- Returns the answers, an error among them as an error.

if ARGV[1] == '1' then redis.call('DEL', KEYS[1]) end
local answers, at = {}, 2
while at <= #ARGV do
    local last = at + ARGV[at]
    answers[#answers + 1] = redis.pcall(unpack(ARGV, at + 1, last))
    at = last + 1
end
return answers

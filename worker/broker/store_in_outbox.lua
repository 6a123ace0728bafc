-- Store a run in the outbox, and that its messages are completed, atomically. Nothing happens where one of them was
-- completed before, or is or was run alone. The first write is HSET, which a full Redis refuses, and with it all.
--
-- A client that has lost a script's answer sends the script again: KEYS[1] says that the run is stored.
--
-- KEYS[1]    hash: ID of a run in the outbox -> what it made
-- KEYS[2]    hash: idempotency key of a message -> ID of its run in the outbox
-- KEYS[3…]   ARGV[4] sets of idempotency keys of completed messages, the current one first; then for each message
--            two keys, of which one exists while it is run alone, and afterwards
-- ARGV[1]    ID of the run
-- ARGV[2]    what it made
-- ARGV[3]    seconds for which the current set is kept
-- ARGV[4]    number of sets
-- ARGV[5…]   the idempotency keys of the messages
-- Returns    an empty array where the run is stored; else pairs: zero-based position of a message, and why it cannot
--            be completed: 2 it was completed before, 3 it is or was run alone, or the ID of its run in the outbox

local FIRST_SET, FIRST_MESSAGE = 3, 5
local sets = tonumber(ARGV[4])
local first_alone = FIRST_SET + sets
local MOST_WORDS = 1000 -- of one command: Lua's stack is limited

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return {} end

-- Run a command on the words from a position on, in pieces, and collect its answers.
local function on_each(words, first, command, key)
    local answers = {}
    for start = first, #words, MOST_WORDS do
        local last = math.min(start + MOST_WORDS - 1, #words)
        local answer = key and redis.call(command, key, unpack(words, start, last))
            or redis.call(command, unpack(words, start, last))
        if type(answer) == 'table' then
            for _, value in ipairs(answer) do answers[#answers + 1] = value end
        end
    end
    return answers
end

local reasons = {}
for position, value in ipairs(on_each(KEYS, first_alone, 'MGET')) do
    if value then reasons[math.ceil(position / 2)] = 3 end
end
for set = FIRST_SET, first_alone - 1 do
    for position, is_member in ipairs(on_each(ARGV, FIRST_MESSAGE, 'SMISMEMBER', KEYS[set])) do
        if is_member == 1 then reasons[position] = 2 end
    end
end
for position, run in ipairs(on_each(ARGV, FIRST_MESSAGE, 'HMGET', KEYS[2])) do
    if run then reasons[position] = run end
end
local answer = {}
for position, reason in pairs(reasons) do
    answer[#answer + 1] = position - 1
    answer[#answer + 1] = reason
end
if #answer > 0 then return answer end

redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
for i = FIRST_MESSAGE, #ARGV do redis.call('HSET', KEYS[2], ARGV[i], ARGV[1]) end
if #ARGV >= FIRST_MESSAGE then
    on_each(ARGV, FIRST_MESSAGE, 'SADD', KEYS[FIRST_SET])
    redis.call('EXPIRE', KEYS[FIRST_SET], ARGV[3])
end
return {}

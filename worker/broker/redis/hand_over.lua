-- Hand a run over: push the messages that were made of its messages, and end those, atomically. Nothing happens
-- where one of them is not reserved any more, was completed before, or is or was run alone, or where a key is of another
-- type. The first write is HSET, which a full Redis refuses, and with it all of them.
--
-- A client that has lost a script's answer sends the script again: KEYS[3] says that the run is handed over.
--
-- KEYS[1]    sorted set: delivery tag -> time of the reservation
-- KEYS[2]    hash: delivery tag -> recorded message
-- KEYS[3]    hash: ID of a run -> what is to be counted of it
-- KEYS[4]    sorted set: list that is not empty -> number of its entry
-- KEYS[5]    the number of the last entry
-- KEYS[6…]   ARGV[4] sets of idempotency keys of completed messages, the current one first; as many of those of
--            messages that are run alone; then lists of messages
-- ARGV[1]    ID of the run
-- ARGV[2]    what is to be counted of it
-- ARGV[3]    seconds for which the current set is kept
-- ARGV[4]    number of sets of either kind
-- ARGV[5]    number of messages to complete
-- ARGV[6]    number of messages to end besides: they were completed before
-- ARGV[7…]   the delivery tags of the messages to complete, their idempotency keys, the delivery tags of the
--            others; then pairs: one-based position of a list, and a message to push into it
-- Returns    an empty array where the run is handed over; else pairs: zero-based position of a message to complete,
--            and why it cannot be: 1 it is not reserved any more, 2 it was completed before, 3 it is or was run alone

local sets, messages, others = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local FIRST_SET, FIRST_TAG = 6, 7
local first_list = FIRST_SET + 2 * sets
local first_key = FIRST_TAG + messages
local first_other = first_key + messages
local first_pair = first_other + others
local MOST_WORDS = 1000 -- of one command: Lua's stack is limited

if redis.call('HEXISTS', KEYS[3], ARGV[1]) == 1 then return {} end

-- Run a command on ARGV[first] to ARGV[last - 1], in pieces, and collect its answers.
local function on_each(first, last, command, key)
    local answers = {}
    for start = first, last - 1, MOST_WORDS do
        local answer = redis.call(command, key, unpack(ARGV, start, math.min(start + MOST_WORDS, last) - 1))
        if type(answer) == 'table' then
            for _, value in ipairs(answer) do answers[#answers + 1] = value end
        end
    end
    return answers
end

local reasons = {}
for position, score in ipairs(on_each(FIRST_TAG, first_key, 'ZMSCORE', KEYS[1])) do
    if not score then reasons[position] = 1 end
end
for set = FIRST_SET, first_list - 1 do
    -- Mostly nothing was run alone, and there are no such sets.
    local members = redis.call('EXISTS', KEYS[set]) == 1 and on_each(first_key, first_other, 'SMISMEMBER', KEYS[set])
    for position, is_member in ipairs(members or {}) do
        if is_member == 1 then reasons[position] = set < FIRST_SET + sets and 2 or 3 end
    end
end
local answer = {}
for position, reason in pairs(reasons) do
    answer[#answer + 1] = position - 1
    answer[#answer + 1] = reason
end
if #answer > 0 then return answer end
for position = first_list, #KEYS do redis.call('LLEN', KEYS[position]) end

redis.call('HSET', KEYS[3], ARGV[1], ARGV[2])
for at = first_pair, #ARGV, 2 do
    local list = KEYS[first_list + ARGV[at] - 1]
    add_to_index(KEYS[4], KEYS[5], list, redis.call('LPUSH', list, ARGV[at + 1]) == 1)
end
if messages > 0 then
    on_each(first_key, first_other, 'SADD', KEYS[FIRST_SET])
    redis.call('EXPIRE', KEYS[FIRST_SET], ARGV[3])
end
for _, range in ipairs({{FIRST_TAG, first_key}, {first_other, first_pair}}) do
    on_each(range[1], range[2], 'ZREM', KEYS[1])
    on_each(range[1], range[2], 'HDEL', KEYS[2])
end
return {}

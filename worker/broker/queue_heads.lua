-- queue_heads.lua: the length of each queue and its oldest message, without taking it.
-- KEYS[1..n]  lists of messages; the oldest is the last
-- ARGV[1]     bytes of a message's end to return: its delivery tag is there
-- Returns     for each key: its length, the end of its oldest message, and the text of that message's
--             `enqueued_at` header; the last two are empty strings where there is none

local answers = {}
for i, key in ipairs(KEYS) do
    local length = redis.call('LLEN', key)
    local tail, enqueued_at = '', ''
    if length > 0 then
        local message = redis.call('LINDEX', key, -1)
        tail = message:sub(-ARGV[1])
        local _, last = message:find('"enqueued_at":', 1, true)
        enqueued_at = last and message:match('^%s*([%d.]+)', last + 1) or ''
    end
    answers[i] = {length, tail, enqueued_at}
end
return answers

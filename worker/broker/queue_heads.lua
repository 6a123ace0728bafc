-- Read the length of each queue and its oldest message, without taking it.
--
-- KEYS[1…]  lists of messages, those of one queue after another; the oldest of a list is its last
-- ARGV[1]   lists of each queue: one a priority
-- ARGV[2]   bytes of a message's end that tell it from others: its delivery tag is there
-- Returns   JSON: for each queue its length, a digest of its oldest messages, and the earliest time in their
--           `enqueued_at` headers (Unix seconds); '' and 0 where there is none

local lists = tonumber(ARGV[1])
local answers = {}
for first = 1, #KEYS, lists do
    local length, tails, enqueued_at = 0, '', 0
    for at = first, first + lists - 1 do
        local found = redis.call('LLEN', KEYS[at])
        if found > 0 then
            length = length + found
            local message = redis.call('LINDEX', KEYS[at], -1)
            tails = tails .. message:sub(-ARGV[2])
            local _, last = message:find('"enqueued_at":', 1, true)
            local time = last and tonumber(message:match('^%s*([%d.]+)', last + 1)) or 0
            if time > 0 and (enqueued_at == 0 or time < enqueued_at) then
                enqueued_at = time
            end
        end
    end
    local head = length > 0 and redis.sha1hex(tails) or ''
    -- cjson writes 14 digits, which are milliseconds of this century.
    answers[#answers + 1] = {length, head, enqueued_at}
end
return cjson.encode(answers)

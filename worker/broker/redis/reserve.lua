-- Reserve one message, or a run of messages of one queue: pop them from the first non-empty list and record each as
-- unacknowledged, atomically. Redis never interrupts a script, so a message is at each moment in its list or in
-- KEYS[2]. The first write is RPOP, which a full Redis allows; a script that has written may go on. A message that
-- cannot be recorded, as for want of a permission, is pushed back, and the error is the answer.
-- Tell which streams' lists hold messages, too: those that were added to the index since the caller last
-- asked, and those among the lists of its sweep. How many lists a caller names bounds the time.
--
-- KEYS[1]  sorted set: delivery tag -> time of the reservation (kombu's `unacked_index`)
-- KEYS[2]  hash: delivery tag -> JSON list of message, exchange and routing key (kombu's `unacked`)
-- KEYS[3]  the last sequence number that was given to a message
-- KEYS[4]  hash: delivery tag -> large malformed message, which is set aside as it is
-- KEYS[5]  sorted set: list that is not empty -> number of its entry
-- KEYS[6]  the number of the last entry
-- KEYS[7…] lists of messages: those to reserve from, in round-robin order, then those of the sweep
-- ARGV[1]  now, in Unix seconds
-- ARGV[2]  the queue of changes, whose messages get a sequence number and are reserved in runs
-- ARGV[3]  how the names of streams' lists begin, which belong in the index
-- ARGV[4]  number of the lists to reserve from
-- ARGV[5]  number of the last entry that the caller has seen; negative where it has seen none
-- ARGV[6]  messages of a run at most
-- ARGV[7]  bytes of a run of changes at most, beyond its first message
-- ARGV[8]  bytes of a message that may be in such a run at most
-- ARGV[9…] for each of the lists to reserve from: calls of Firehose, records and bytes of a run of deliveries at most
-- Returns  {number of the last entry that the caller has seen now, lists added to the index,
--           zero-based positions of the non-empty ones among the lists of the sweep}, and behind these, where
--          a message was reserved, its queue, 1 where its list is empty now or 0, message, delivery tag; for a run,
--          an empty message and the delivery tags of all its messages, in their order; for a run of deliveries each
--          in an array, with the number of its call, its records and its bytes
--
-- A run's messages are recorded like any other: a worker of any version requeues them one by one. Of a delivery
-- message whose headers tell its cost the answer lacks the body, which the pool process reads. Such messages of a stream
-- are reserved in runs. A retry, which has an ETA, is not: its headers are looked at.
--
-- kombu records the exchange and routing key a message was sent with, and looks up the queue when it
-- requeues. Here the record names the queue itself: a message is requeued to where it came from.
--
-- A message's sequence number is the first member of its envelope, where a message that is requeued keeps it.
-- It is the server's clock in microseconds, or one more than the last number where that is greater: so it grows
-- when the clock is put back, and when a failover to a replica has lost the last numbers. What goes wrong here
-- leaves a message without one (pcall): it is off its list already and must be recorded.

-- A malformed message is wrapped into one of kombu's. To quote it as JSON costs a function call a byte, and to
-- parse JSON costs many times its size: a large one is not quoted but set aside, and of a large message only the
-- ends are parsed. So no message, whatever it holds, blocks Redis for longer than it takes to copy it.

local FIRST_LIST = 7
local MAX_ADDED = 100 -- entries that one answer names
local MAX_PARSED_BYTES = 1024 * 1024
local MAX_QUOTED_BYTES = 16 * 1024
local END_BYTES = 8 * 1024 -- kombu's properties have 300 bytes and are the last member of an envelope
local STAMP = '{"sequence":"'
local SEPARATOR = '\6' -- kombu's, between the name of a queue and a priority
local ALONE = '"alone"' -- the first member of a message that is in no run; a sequence number may be before it
local ALONE_BYTES = 64
local RECORDS = '"firehose_records": ?(%d+)' -- the headers that tell what a batch costs
local BYTES = '"firehose_bytes": ?(%d+)'
local FIRST_ATTEMPT = '"retries": ?0[,}]'
local FIRST_LIMIT = 9
local CALL_RECORDS = 500 -- of Firehose, at most
local LEAN_BYTES = 2048 -- the body of a shorter message is no burden
local TAIL_BYTES = 320 -- what kombu's own properties end with is within the last bytes of its envelope

-- A JSON text whose characters are the bytes of a string (Latin-1).
local function quoted(bytes)
    local escaped = bytes:gsub('.', function(byte) return ('\\u%04x'):format(byte:byte()) end)
    return '"' .. escaped .. '"'
end

local function is_text(value)
    return type(value) == 'string'
end

-- What a JSON text says; nil where it is none.
local function parsed(text)
    local is_json, content = pcall(cjson.decode, text)
    return is_json and content or nil
end

-- The properties in a large message, whose beginning and end alone are looked at; nil where they are not there.
local function properties_of_large(message)
    local text = message:sub(-END_BYTES):match('^.*"properties"%s*:%s*(%b{})')
        or message:sub(1, END_BYTES):match('"properties"%s*:%s*(%b{})')
    return text and parsed(text)
end

local function properties_of(message)
    if #message > MAX_PARSED_BYTES then return properties_of_large(message) end
    local envelope = parsed(message)
    return type(envelope) == 'table' and envelope['properties']
end

-- The delivery tag of an envelope as kombu writes it; nil for any other. It costs a fifth of parsing the JSON.
local function written_tag(message)
    local tail = message:sub(-TAIL_BYTES)
    local start = tail:find('"delivery_info"', 1, true)
    return start and tail:match(
        '^"delivery_info": ?{"exchange": ?"[^"\\]*", ?"routing_key": ?"[^"\\]*"}[^{}]*"delivery_tag": ?"([^"\\]+)"}}$',
        start
    )
end

-- The delivery tag of one of kombu's messages; nil for a malformed message.
local function delivery_tag(message)
    local written = written_tag(message)
    if written then return written end
    local properties = properties_of(message)
    local delivery_info = type(properties) == 'table' and properties['delivery_info']
    if type(delivery_info) ~= 'table' then return nil end
    local tag = properties['delivery_tag']
    if is_text(tag) and is_text(delivery_info['exchange']) and is_text(delivery_info['routing_key']) then
        return tag
    end
end

-- A message of kombu's; all but the tag is JSON.
local function envelope_of(body, headers, tag, queue)
    return '{"body":' .. body .. ',"headers":' .. headers .. ',"properties":{"delivery_tag":' .. quoted(tag)
        .. ',"delivery_info":{"exchange":"","routing_key":' .. queue .. '}}}'
end

local held, list_of_held -- a message that is popped and not recorded yet, and its list

local function pop(list)
    held, list_of_held = redis.call('RPOP', list), list
    return held
end

local function push_back()
    redis.call('RPUSH', list_of_held, held)
    held = nil
end

local last_number -- that this script has given; KEYS[3] learns of it at its end

local function next_number()
    if not last_number then
        local time, last = redis.pcall('TIME'), redis.pcall('GET', KEYS[3])
        if time.err then return nil end
        last_number = math.max(time[1] * 1000000 + time[2] - 1, tonumber(last or '') or 0)
    end
    last_number = last_number + 1
    return ('%.0f'):format(last_number)
end

local function keep_last_number()
    if last_number then redis.pcall('SET', KEYS[3], ('%.0f'):format(last_number)) end
end

-- A message with a sequence number, which it may have already, in two parts. They are joined once: to join a large
-- message is to copy it.
local function stamped(message)
    if message:sub(1, 1) ~= '{' or message:sub(1, #STAMP) == STAMP then return '', message end
    local number = next_number()
    if not number then return '', message end
    return STAMP .. number .. '",', message:sub(2)
end

-- A delivery tag for a malformed message, and a message of kombu's in its place. A large one is set aside in KEYS[4],
-- under a tag of its own, and the message in its place says how many bytes it has.
local function wrapped(bytes, queue)
    if #bytes > MAX_QUOTED_BYTES then
        local sample = bytes:sub(1, END_BYTES) .. bytes:sub(-END_BYTES) .. #bytes .. (next_number() or '')
        local tag = 'foreign-' .. redis.sha1hex(sample)
        local answer = redis.pcall('HSET', KEYS[4], tag, bytes)
        if type(answer) == 'number' then
            return tag, envelope_of('""', '{"audience_set_aside":' .. #bytes .. '}', tag, queue)
        end
    end
    local tag = 'foreign-' .. redis.sha1hex(bytes)
    return tag, envelope_of(quoted(bytes), '{}', tag, queue)
end

-- The lists of entries that were added behind the last one seen, and the number of the last one that is seen now.
-- Where the last number is smaller than one that was seen, the index was lost: the sweep finds what it named.
local function added(seen)
    local last = tonumber(redis.pcall('GET', KEYS[6]) or 0) or 0
    if seen < 0 or last <= seen then return {}, last end
    local answer = redis.pcall('ZRANGEBYSCORE', KEYS[5], '(' .. seen, '+inf', 'WITHSCORES', 'LIMIT', 0, MAX_ADDED)
    local names = {}
    for i = 1, #answer, 2 do names[#names + 1] = answer[i] end
    return names, #names == MAX_ADDED and tonumber(answer[#answer]) or last
end

-- Whether any of the lists from one position in KEYS to another holds messages.
local function hold_messages(first, last)
    return first <= last and redis.call('EXISTS', unpack(KEYS, first, last)) > 0
end

-- The zero-based positions of the non-empty ones among the lists from a position in KEYS on.
local function non_empty(first)
    local positions = {}
    if not hold_messages(first, #KEYS) then return positions end
    for i = first, #KEYS do
        if redis.call('EXISTS', KEYS[i]) == 1 then positions[#positions + 1] = i - first end
    end
    return positions
end

local function remove_from_index(list)
    if list:sub(1, #ARGV[3]) == ARGV[3] then redis.pcall('ZREM', KEYS[5], list) end
end

local function may_be_in_run(message)
    return #message <= tonumber(ARGV[8]) and not message:sub(1, ALONE_BYTES):find(ALONE, 1, true)
end

-- Record a message, which is given in two parts, as unacknowledged. Returns the delivery tag: a new one where a reserved
-- message bears the same.
local function record(tag, first, rest, queue)
    local text = '[' .. first .. rest .. ',"",' .. queue .. ']'
    if redis.call('HSETNX', KEYS[2], tag, text) == 0 then
        tag = 'again-' .. redis.sha1hex(text .. (next_number() or ''))
        redis.call('HSET', KEYS[2], tag, text)
    end
    local answer = redis.pcall('ZADD', KEYS[1], ARGV[1], tag)
    if type(answer) == 'table' then
        redis.call('HDEL', KEYS[2], tag)
        error(answer.err, 0)
    end
    held = nil
    return tag
end

-- Record a run's first message, and pop and record further ones. Returns their delivery tags.
local function reserve_run(key, first, first_tag, queue)
    local tags, message, tag, bytes, room = {}, first, first_tag, 0, tonumber(ARGV[7])
    repeat
        local size, before, rest = #message, stamped(message)
        tags[#tags + 1] = record(tag, before, rest, queue)
        -- The next message is about as large. One that does not fit would be popped and pushed back in vain.
        message = #tags < tonumber(ARGV[6]) and bytes + size <= room and pop(key)
        bytes = bytes + (message and #message or 0)
        tag = message and may_be_in_run(message) and bytes <= room and delivery_tag(message)
    until not tag
    if message then push_back() end
    return tags
end

-- What a message of a stream is but for its body: what is before, what is behind, and what its batch costs in
-- records and bytes. nil where the headers do not tell that.
local function parts_of(message)
    local _, last = message:find('^{"body": ?"')
    local close = last and message:find('"', last + 1, true)
    if not close or message:sub(close - 1, close - 1) == '\\' then return nil end
    local rest = message:sub(close)
    local records, bytes = rest:match(RECORDS), rest:match(BYTES)
    if records and bytes then return message:sub(1, last), rest, tonumber(records), tonumber(bytes) end
end

-- Record a first delivery message, and pop and record those that may be in a run with it. Returns of each its
-- delivery tag, the number of its call, its records and its bytes.
local function reserve_deliveries(key, message, tag, queue, position)
    local limit = FIRST_LIMIT + 3 * (position - FIRST_LIST)
    local calls, records, bytes = tonumber(ARGV[limit]), tonumber(ARGV[limit + 1]), tonumber(ARGV[limit + 2])
    local reserved, call, in_call = {}, 1, 0
    repeat
        local _, rest, its_records, its_bytes = parts_of(message)
        local may_join = rest and rest:find(FIRST_ATTEMPT)
        if may_join and in_call + its_records > CALL_RECORDS then call, in_call = call + 1, 0 end
        if #reserved > 0 then
            local fits = may_join and call <= calls and its_records <= records and its_bytes <= bytes
            tag = fits and delivery_tag(message)
            if not tag then
                push_back()
                break
            end
        end
        reserved[#reserved + 1] = {record(tag, '', message, queue), call, its_records or 0, its_bytes or 0}
        if not may_join then break end
        in_call, records, bytes = in_call + its_records, records - its_records, bytes - its_bytes
        message = #reserved < tonumber(ARGV[6]) and records > 0 and bytes > 0 and pop(key)
    until not message
    return reserved
end

-- Reserve a message that was popped from the list at a position in KEYS. Returns the message and its delivery tag, or
-- what a run's messages are told by.
local function reserve(position, message, name)
    local key, tag, queue = KEYS[position], delivery_tag(message), quoted(name)
    if tag and name == ARGV[2] and may_be_in_run(message) then
        return '', unpack(reserve_run(key, message, tag, queue))
    end
    if tag and key:sub(1, #ARGV[3]) == ARGV[3] then
        local reserved = reserve_deliveries(key, message, tag, queue, position)
        if #reserved > 1 then return '', unpack(reserved) end
        local before, behind = parts_of(message)
        return before and #message > LEAN_BYTES and before .. behind or message, reserved[1][1]
    end
    if not tag then
        tag, message = wrapped(message, queue)
    elseif name == ARGV[2] then
        local first, rest = stamped(message)
        message = first .. rest
    end
    return message, record(tag, '', message, queue)
end

local first_of_sweep = FIRST_LIST + ARGV[4]
local names, last = added(tonumber(ARGV[5]))
local found = non_empty(first_of_sweep)
local may_reserve = hold_messages(FIRST_LIST, first_of_sweep - 1)
for i = FIRST_LIST, first_of_sweep - 1 do
    local key = KEYS[i]
    local message = may_reserve and pop(key)
    local name = message and key:match('^[^' .. SEPARATOR .. ']*')
    local reserved = message and {pcall(reserve, i, message, name)}
    keep_last_number()
    if reserved and not reserved[1] then
        if held then push_back() end
        error(reserved[2], 0)
    end
    local is_empty = not message or redis.call('EXISTS', key) == 0
    if is_empty then remove_from_index(key) end
    if message then return {last, names, found, name, is_empty and 1 or 0, unpack(reserved, 2)} end
end
return {last, names, found}

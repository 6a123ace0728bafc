-- Reserve one message: pop it from the first non-empty list and record it as unacknowledged, atomically.
-- Redis never interrupts a script, so the message is at each moment in its list or in KEYS[2]. The first
-- write is RPOP, which a full Redis allows; a script that has written may go on.
--
-- KEYS[1]  sorted set: delivery tag -> time of the reservation (kombu's `unacked_index`)
-- KEYS[2]  hash: delivery tag -> JSON list of message, exchange and routing key (kombu's `unacked`)
-- KEYS[3]  the last sequence number that was given to a message
-- KEYS[4]  hash: delivery tag -> large malformed message, which is set aside as it is
-- KEYS[5…] lists of messages, in round-robin order
-- ARGV[1]  now, in Unix seconds
-- ARGV[2]  zero-based position, among the lists, of the one to look at first
-- ARGV[3]  the queue whose messages get a sequence number
-- Returns  {zero-based position of the list, message, delivery tag}; nil where every list is empty
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

local FIRST_LIST = 5
local MAX_PARSED_BYTES = 1024 * 1024
local MAX_QUOTED_BYTES = 16 * 1024
local END_BYTES = 8 * 1024 -- kombu's properties have 300 bytes and are the last member of an envelope
local STAMP = '{"sequence":"'
local SEPARATOR = '\6' -- kombu's, between the name of a queue and a priority

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

-- The delivery tag of one of kombu's messages; nil for a malformed message.
local function delivery_tag(message)
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

local function next_number()
    local time, last = redis.pcall('TIME'), redis.pcall('GET', KEYS[3])
    if time.err then return nil end
    local number = ('%.0f'):format(math.max(time[1] * 1000000 + time[2], (tonumber(last or '') or 0) + 1))
    redis.pcall('SET', KEYS[3], number)
    return number
end

-- The message with a sequence number, which it may have already.
local function stamped(message)
    if message:sub(1, 1) ~= '{' or message:sub(1, #STAMP) == STAMP then return message end
    local number = next_number()
    return number and STAMP .. number .. '",' .. message:sub(2) or message
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

local lists = #KEYS - FIRST_LIST + 1
for step = 0, lists - 1 do
    local position = (ARGV[2] + step) % lists
    local key = KEYS[FIRST_LIST + position]
    local message = redis.call('RPOP', key)
    if message then
        local name = key:match('^[^' .. SEPARATOR .. ']*')
        local tag, queue = delivery_tag(message), quoted(name)
        if not tag then
            tag, message = wrapped(message, queue)
        elseif name == ARGV[3] then
            message = stamped(message)
        end
        redis.call('ZADD', KEYS[1], ARGV[1], tag)
        redis.call('HSET', KEYS[2], tag, '[' .. message .. ',"",' .. queue .. ']')
        return {position, message, tag}
    end
end
return false

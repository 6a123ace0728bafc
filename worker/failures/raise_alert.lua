-- Raise an alert, or count it into the one it repeats; store the dead letter that it is about, if any.
--
-- The caller reads the entry that the alert repeats, and passes both that text and the text to put in its
-- place. Where another process was faster, nothing changes and the caller tries again.
--
-- KEYS[1]   list of entries (JSON), newest first
-- KEYS[2]   hash: alert ID -> its state; an alert without one is open
-- KEYS[3]   the entry that an alert of this type and subject repeats; expires
-- KEYS[4]   hash: dead letter ID -> ID of its alert
-- KEYS[5]   hash: alert ID -> number of its dead letters
-- KEYS[6]   hash: dead letter ID -> its entry (JSON)
-- KEYS[7]   hash: dead letter ID -> its message (JSON)
-- KEYS[8]   hash: stream queue -> its dead records; `#letters` -> number of letters
-- KEYS[9]   a key that never exists: deleting it is a write that a full Redis allows
-- KEYS[10]  hash of the counters of the letter's stream
-- ARGV[1]   the text that KEYS[3] is to hold, or ''
-- ARGV[2]   the entry to store
-- ARGV[3]   alert ID
-- ARGV[4]   cooldown: seconds until KEYS[3] expires
-- ARGV[5]   entries that the list may have
-- ARGV[6]   entries above that from which on the list is trimmed
-- ARGV[7]   1 where a full Redis must store it, too
-- ARGV[8]   dead letter ID; '' where there is none, and then the others are not read
-- ARGV[9]   the letter's entry
-- ARGV[10]  its message
-- ARGV[11]  its stream's queue, or ''
-- ARGV[12]  its records
-- Returns   1 where the alert is stored, 2 where the dead letter is already there, 0 to try again

local expected, entry, alert = ARGV[1], ARGV[2], ARGV[3]
local letter = ARGV[8]

if ARGV[7] == '1' then redis.call('DEL', KEYS[9]) end
if letter ~= '' and redis.call('HEXISTS', KEYS[6], letter) == 1 then return 2 end
if (redis.call('GET', KEYS[3]) or '') ~= expected then return 0 end

local index = false
if expected ~= '' then
    index = redis.call('LPOS', KEYS[1], expected)
    if not index or redis.call('HEXISTS', KEYS[2], alert) == 1 then
        redis.call('DEL', KEYS[3])
        return 0
    end
end

if letter ~= '' then
    -- The first write, which a full Redis refuses unless it must store the letter. Its error is the answer.
    local stored = redis.pcall('HSET', KEYS[7], letter, ARGV[10])
    if type(stored) == 'table' and stored['err'] then
        return redis.error_reply(string.match(stored['err'], 'OOM .*') or stored['err'])
    end
    redis.call('HSET', KEYS[6], letter, ARGV[9])
    redis.call('HINCRBY', KEYS[8], ARGV[11], ARGV[12])
    redis.call('HINCRBY', KEYS[8], '#letters', 1)
    redis.call('HINCRBY', KEYS[10], 'dead', ARGV[12])
    redis.call('HSET', KEYS[4], letter, alert)
    redis.call('HINCRBY', KEYS[5], alert, 1)
end

if index then
    redis.call('LSET', KEYS[1], index, entry)
else
    redis.call('LPUSH', KEYS[1], entry)
end
redis.call('SET', KEYS[3], entry, 'EX', ARGV[4])

-- Trims the oldest entries, once in so many new ones. One that is open and fatal stays: of those there may be more
-- than the bound, and to look through them takes a tenth of a second.
local surplus, slack = redis.call('LLEN', KEYS[1]) - tonumber(ARGV[5]), tonumber(ARGV[6])
if not index and surplus > slack and (surplus - 1) % math.max(slack, 1) == 0 then
    local at = redis.call('LLEN', KEYS[1]) - 1
    while surplus > 0 and at > 0 do
        local readable, old = pcall(cjson.decode, redis.call('LINDEX', KEYS[1], at))
        local is_entry = readable and type(old) == 'table' and type(old['id']) == 'string'
        local is_open = is_entry and redis.call('HEXISTS', KEYS[2], old['id']) == 0
        if not (is_open and old['severity'] == 'fatal') then
            redis.call('LSET', KEYS[1], at, '')
            surplus = surplus - 1
            if is_entry then
                redis.call('HDEL', KEYS[2], old['id'])
                redis.call('HDEL', KEYS[5], old['id'])
            end
        end
        at = at - 1
    end
    redis.call('LREM', KEYS[1], 0, '')
end
return 1

-- Raises an alert, or counts it into the one it repeats; stores the dead letter that it is about, if any.
--
-- The caller reads the entry that the alert repeats, and passes both that text and the text to put in its
-- place. Where another process was faster, nothing changes and the caller tries again.
--
-- KEYS  1 alerts           list of entries (JSON), newest first
--       2 states           hash, alert ID to its state; an alert without one is open
--       3 current          string, the entry that an alert of this type and subject repeats; expires
--       4 letter alerts    hash, dead letter ID to the ID of its alert
--       5 pending letters  hash, alert ID to the number of its dead letters
--       6 dead letters     hash, dead letter ID to its entry (JSON)
--       7 messages         hash, dead letter ID to its message (JSON)
--       8 dead records     hash, stream queue to its dead records; `#letters` to the number of letters
--       9 nothing          never set: deleting it is a write that a full Redis allows
--      10 counters         hash of the counters of the letter's stream
-- ARGV  1 expected         the text of `current`, or ''
--       2 entry            the text to store
--       3 alert ID
--       4 cooldown         seconds until `current` expires
--       5 bound            entries that the list may have
--       6 slack            entries above the bound from which on the list is trimmed
--       7 even if full     '1' where a full Redis must store it too
--       8 letter ID        '' where there is no dead letter; then 9 to 12 are not read
--       9 letter           10 message           11 stream queue, or ''           12 records
--
-- Returns 1 where the alert is stored, 2 where the dead letter is already there, 0 to try again.

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

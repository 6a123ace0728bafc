-- Remove dead letters of one stream, and resolve the alerts that have no other dead letter left.
--
-- KEYS[1]   hash: dead letter ID -> its entry (JSON)
-- KEYS[2]   hash: dead letter ID -> its message (JSON)
-- KEYS[3]   hash: stream queue -> its dead records; `#letters` -> number of letters
-- KEYS[4]   hash: dead letter ID -> ID of its alert
-- KEYS[5]   hash: alert ID -> number of its dead letters
-- KEYS[6]   hash: alert ID -> its state
-- KEYS[7]   hash of the stream's counters
-- KEYS[8…]  of each letter, the bytes that it refers to, which most do not have
-- ARGV[1]   the stream's queue; '' for letters of no stream
-- ARGV[2]   1 where the records count as discarded
-- ARGV[3]   the state of a resolved alert
-- ARGV[4…]  of each letter, its ID and its records
-- Returns   the IDs of the letters that were removed, less those that others had removed before

local removed, records = {}, 0
for at = 4, #ARGV, 2 do
    local letter = ARGV[at]
    redis.call('HDEL', KEYS[2], letter)
    redis.call('UNLINK', KEYS[at / 2 + 6])
    if redis.call('HDEL', KEYS[1], letter) == 1 then
        removed[#removed + 1] = letter
        records = records + tonumber(ARGV[at + 1])
        local alert = redis.call('HGET', KEYS[4], letter)
        redis.call('HDEL', KEYS[4], letter)
        if alert and redis.call('HEXISTS', KEYS[5], alert) == 1
            and redis.call('HINCRBY', KEYS[5], alert, -1) <= 0 then
            redis.call('HDEL', KEYS[5], alert)
            redis.call('HSET', KEYS[6], alert, ARGV[3])
        end
    end
end
if #removed > 0 then
    if redis.call('HINCRBY', KEYS[3], '#letters', -#removed) <= 0 then
        redis.call('DEL', KEYS[3])
    else
        redis.call('HINCRBY', KEYS[3], ARGV[1], -records)
    end
    if ARGV[2] == '1' and ARGV[1] ~= '' then
        redis.call('HINCRBY', KEYS[7], 'discarded', records)
    end
end
return removed

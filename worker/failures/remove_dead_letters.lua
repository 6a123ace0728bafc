-- Removes dead letters of one stream, and resolves the alerts that have no other dead letter left.
--
-- KEYS  1 dead letters     hash, dead letter ID to its entry (JSON)
--       2 messages         hash, dead letter ID to its message (JSON)
--       3 dead records     hash, stream queue to its dead records; `#letters` to the number of letters
--       4 letter alerts    hash, dead letter ID to the ID of its alert
--       5 pending letters  hash, alert ID to the number of its dead letters
--       6 states           hash, alert ID to its state
--       7 counters         hash of the stream's counters
--       then, of each letter, the string of the bytes that it refers to, which most do not have
-- ARGV  1 stream queue     '' for letters of no stream
--       2 discarded        '1' where the records count as discarded
--       3 resolved         the state of a resolved alert
--       then, of each letter, its ID and its records
--
-- Returns the IDs of the letters that were removed, less those that others had removed before.

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

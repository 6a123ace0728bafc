-- Reads a list or a hash of short texts in one answer, which costs its reader a fraction of many.
--
-- KEYS  1 a list, or a hash
--
-- Returns the texts, or the fields and values in turn, with line feeds between them; '' where there is none.

local kind = redis.call('TYPE', KEYS[1])['ok']
local command = kind == 'hash' and {'HGETALL', KEYS[1]} or {'LRANGE', KEYS[1], 0, -1}
return table.concat(redis.call(unpack(command)), '\n')

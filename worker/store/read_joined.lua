-- Read a list, a set or a hash of short texts in one answer, which costs its reader a fraction of many.
--
-- KEYS[1]  a list, a set or a hash
-- Returns  how many texts there are and the texts, with line feeds between them. Of a hash they are its fields and
--          values in turn

local commands = {hash = {'HGETALL', KEYS[1]}, set = {'SMEMBERS', KEYS[1]}, list = {'LRANGE', KEYS[1], 0, -1}}
local command = commands[redis.call('TYPE', KEYS[1])['ok']]
local texts = command and redis.call(unpack(command)) or {}
table.insert(texts, 1, #texts)
return table.concat(texts, '\n')

-- Definition for scripts that push messages into streams' lists: they add a list that was empty to the index of
-- lists that are not. A worker reads which entries were added since it last asked, and looks at no other list.
--
-- An entry's number is greater than those of all entries before it. A list gets a new number whenever a push finds
-- it empty. What goes wrong here (pcall) leaves the list to the workers' sweep: its message is pushed already.
--
-- Returns  nothing: it defines `add_to_index`, which takes the index, the last number, the list that was pushed
--          into, and whether that was empty before

local function add_to_index(index, last_number, list, was_empty)
    if not was_empty and redis.pcall('ZSCORE', index, list) then return end
    local number = redis.pcall('INCR', last_number)
    if type(number) == 'number' then redis.pcall('ZADD', index, number, list) end
end

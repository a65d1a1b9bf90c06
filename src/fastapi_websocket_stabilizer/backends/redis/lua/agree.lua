-- agree: have all nodes know one value.
-- KEYS[1]  the value
-- ARGV[1]  what it is to be if there is none
-- Returns  the value
local value = redis.pcall('GET', KEYS[1])
if type(value) == 'string' then return value end -- else there is none, or it is not ours
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]

-- agree: read a value that all nodes share, or set it.
-- KEYS[1]  value
-- ARGV[1]  value to set if there is none
-- Returns  value
local value = redis.pcall('GET', KEYS[1])
if type(value) == 'string' then return value end -- else missing, or a foreign key
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]

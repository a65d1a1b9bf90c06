-- mailbox_read: read a mailbox in one command, because each connect does. The lists of other logs may be long.
-- KEYS[1]  mark
-- KEYS[2]  list
-- KEYS[3]  meta
-- KEYS[4]  time since which its partition has its content
-- ARGV[1]  place of the first entry, as for LRANGE
-- Returns  {Redis' time in µs, mark, meta, that time, entries}; "" for what is not there or of another type
local function text_of(value) return type(value) == 'string' and value or '' end
local time, entries = redis.call('TIME'), redis.pcall('LRANGE', KEYS[2], ARGV[1], -1)
local mark, meta, since = redis.pcall('GET', KEYS[1]), redis.pcall('GET', KEYS[3]), redis.pcall('GET', KEYS[4])
return {time[1] * 1000000 + time[2], text_of(mark), text_of(meta), text_of(since), entries.err and {} or entries}

-- presence_update: replace the entry of a connection, which keeps its rank.
-- KEYS[1]  client hash: connection_id -> "<stamp> <visit> <entry>"
-- ARGV[1]  connection_id
-- ARGV[2]  entry
-- Returns  1, or 0 if the connection is not there
local value = redis.pcall('HGET', KEYS[1], ARGV[1])
local rank = type(value) == 'string' and entry_of(ARGV[1], value) and string.match(value, '^%d+ %x+ ')
if not rank then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], rank .. ARGV[2])
return 1

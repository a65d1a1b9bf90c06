-- node_shorten: limit the remaining lease of a node to ARGV[2].
-- KEYS[1]  leases: node_id -> deadline, ms of Redis time
-- ARGV[1]  node_id
-- ARGV[2]  lifetime of the node's lease in ms
-- Returns  1 if the lease was longer, else 0
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZADD', KEYS[1], 'XX', 'LT', 'CH', now + ARGV[2], ARGV[1])

-- node_fence_extend: extend the fence of a node under sweep.
-- KEYS[1]  nodes under sweep: node_id -> deadline of the sweeper
-- ARGV[1]  node_id
-- ARGV[2]  lifetime of the fence in ms
-- Returns  1 if the node is still under sweep, else 0
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZADD', KEYS[1], 'XX', 'CH', now + ARGV[2], ARGV[1])

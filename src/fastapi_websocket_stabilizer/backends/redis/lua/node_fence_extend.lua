-- node_fence_extend: keep a node that we are sweeping.
-- KEYS[1]  nodes under sweep: node_id -> deadline of the sweeper
-- ARGV[1]  node_id
-- ARGV[2]  lifetime of the fence in ms
-- Returns  1 when it was still ours, else 0
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZADD', KEYS[1], 'XX', 'CH', now + ARGV[2], ARGV[1])

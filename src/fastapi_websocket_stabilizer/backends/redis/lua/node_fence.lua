-- node_fence: fence a node whose lease, or whose sweeper, has lapsed. It cannot renew its lease any more.
-- KEYS[1]  leases: node_id -> deadline, ms of Redis time
-- KEYS[2]  nodes under sweep: node_id -> deadline of the sweeper
-- ARGV[1]  node_id
-- ARGV[2]  lifetime of the fence in ms
-- Returns  1 if the caller now has the fence, else 0
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local deadline = redis.call('ZSCORE', KEYS[1], ARGV[1]) or redis.call('ZSCORE', KEYS[2], ARGV[1])
if not deadline or tonumber(deadline) > now then
  return 0
end
redis.call('ZADD', KEYS[2], now + ARGV[2], ARGV[1])
redis.call('ZREM', KEYS[1], ARGV[1])
return 1

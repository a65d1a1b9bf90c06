-- node_shorten: end a lease that lasts longer than its node asks for, in the time that it asks for.
-- KEYS[1]  leases: node_id -> deadline, ms of Redis time
-- ARGV[1]  node_id
-- ARGV[2]  lifetime of the node's lease in ms
-- Returns  1 when it lasted longer, else 0
local time = redis.call('TIME')
local latest = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2]
local deadline = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not deadline or tonumber(deadline) <= latest then
  return 0
end
return redis.call('ZADD', KEYS[1], 'XX', 'CH', latest, ARGV[1])

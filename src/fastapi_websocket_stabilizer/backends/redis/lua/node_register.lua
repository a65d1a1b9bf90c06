-- node_register: take a lease.
-- KEYS[1]  leases: node_id -> deadline, ms of Redis time
-- KEYS[2]  info of the node
-- KEYS[3]  epoch: changes when the content is lost
-- ARGV[1]  node_id
-- ARGV[2]  lifetime of the lease in ms
-- ARGV[3]  info
-- ARGV[4]  epoch to set if the server has none
-- Returns  epoch
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if type(redis.pcall('ZSCORE', KEYS[1], ARGV[1])) == 'table' then redis.call('UNLINK', KEYS[1]) end -- a foreign key
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[2])

local epoch = redis.pcall('GET', KEYS[3])
if type(epoch) ~= 'string' then epoch = redis.call('SET', KEYS[3], ARGV[4]) and ARGV[4] end -- missing, or a foreign key
return epoch

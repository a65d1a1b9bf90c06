-- node_renew: extend a lease that is still held; return the live nodes and the nodes to sweep.
-- KEYS[1]  leases: node_id -> deadline, ms of Redis time
-- KEYS[2]  nodes under sweep: node_id -> deadline of the sweeper
-- KEYS[3]  info of the node
-- KEYS[4]  epoch: changes when the content is lost
-- KEYS[5]  secret that signs reconnect tokens
-- ARGV[1]  node_id
-- ARGV[2]  lifetime of the lease in ms
-- ARGV[3]  info
-- ARGV[4]  epoch to set if the server has none
-- Returns  {1 if held else 0, now, live {node_id, deadline, ...}, to sweep {node_id, ...}, epoch, SHA-1 of secret}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if type(redis.pcall('ZSCORE', KEYS[1], ARGV[1])) == 'table' then redis.call('UNLINK', KEYS[1]) end -- a foreign key
if type(redis.pcall('ZSCORE', KEYS[2], ARGV[1])) == 'table' then redis.call('UNLINK', KEYS[2]) end -- a foreign key
local deadline = redis.call('ZSCORE', KEYS[1], ARGV[1])
local held = 0
if deadline and tonumber(deadline) > now then
  held = 1
  redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
  redis.call('SET', KEYS[3], ARGV[3], 'PX', ARGV[2])
end

local epoch = redis.pcall('GET', KEYS[4])
if type(epoch) ~= 'string' then epoch = redis.call('SET', KEYS[4], ARGV[4]) and ARGV[4] end -- missing, or a foreign key
local lapsed = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)
for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now)) do
  lapsed[#lapsed + 1] = node
end
local live = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf', 'WITHSCORES')
local secret = redis.pcall('GET', KEYS[5])
return {held, now, live, lapsed, epoch, type(secret) == 'string' and redis.sha1hex(secret) or ''}

-- client_revoke: keep what was taken from a client. The same revocation is kept with its last time.
-- KEYS[1]  revocations of a client: a room, or NUL and the JSON of a close -> µs of Redis time
-- ARGV[1]  revocation
-- ARGV[2]  ms for which it is kept
-- ARGV[3]  limit of revocations of the client
-- Returns  number of revocations that were removed before their time
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if type(redis.pcall('ZADD', KEYS[1], now, ARGV[1])) == 'table' then
  redis.call('UNLINK', KEYS[1]) -- not a sorted set: a foreign key
  redis.call('ZADD', KEYS[1], now, ARGV[1])
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local old = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2] * 1000, 'LIMIT', 0, 1000)
if #old > 0 then redis.call('ZREM', KEYS[1], unpack(old)) end
if #redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '+inf', 'LIMIT', ARGV[3], 1) == 0 then return 0 end
local first = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '+inf', 'LIMIT', 0, 1)
return redis.call('ZREM', KEYS[1], first[1])

-- client_revoked: return what was taken from a client.
-- KEYS[1]  revocations of a client, as in client_revoke
-- Returns  {µs of Redis time, revocation, µs since then, ...}
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local found = redis.pcall('ZRANGEBYSCORE', KEYS[1], '-inf', '+inf', 'WITHSCORES')
if found.err then found = {} end -- not a sorted set: a foreign key
for i = 2, #found, 2 do found[i] = string.format('%.0f', now - found[i]) end
return {string.format('%.0f', now), unpack(found)}

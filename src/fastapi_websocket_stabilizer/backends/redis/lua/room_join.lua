-- room_join: enter a connection in a room and count it for its node.
-- KEYS[1]  room hash: connection_id -> client_id
-- KEYS[2]  room counts: node_id -> members
-- ARGV[1]  connection_id
-- ARGV[2]  client_id
-- ARGV[3]  node_id
-- Returns  1 when it was not there, else 0
local new = redis.pcall('HSET', KEYS[1], ARGV[1], ARGV[2])
if type(new) == 'table' then
  -- Refused for want of memory or replicas, it says nothing about the key, and UNLINK may still be allowed.
  if not string.find(new.err, '^WRONGTYPE') then return new end
  redis.call('UNLINK', KEYS[1]) -- no hash: it is not ours
  new = redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
if new == 1 and redis.call('HLEN', KEYS[1]) == 1 then redis.call('UNLINK', KEYS[2]) end -- of members that are lost
if type(redis.pcall('HINCRBY', KEYS[2], ARGV[3], new)) == 'table' then -- no number, or no hash
  if type(redis.pcall('HDEL', KEYS[2], ARGV[3])) == 'table' then redis.call('UNLINK', KEYS[2]) end
  redis.call('HSET', KEYS[2], ARGV[3], 1)
end
return new

-- room_join: enter a connection in a room and count it for its node.
-- KEYS[1]  room hash: connection_id -> client_id
-- KEYS[2]  room counts: node_id -> members
-- ARGV[1]  connection_id
-- ARGV[2]  client_id
-- ARGV[3]  node_id
-- Returns  1 when it was not there, else 0
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then redis.call('UNLINK', KEYS[1]) end -- it is not ours
if redis.call('TYPE', KEYS[2]).ok ~= 'hash' then redis.call('UNLINK', KEYS[2]) end
local new = redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
if type(redis.pcall('HINCRBY', KEYS[2], ARGV[3], new)) == 'table' then
  redis.call('HSET', KEYS[2], ARGV[3], 1) -- it was no number
end
return new

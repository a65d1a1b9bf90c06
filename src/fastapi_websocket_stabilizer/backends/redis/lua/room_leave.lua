-- room_leave: remove a connection from a room and from its node's count.
-- KEYS[1]  room hash: connection_id -> client_id
-- KEYS[2]  room counts: node_id -> members
-- ARGV[1]  connection_id
-- ARGV[2]  node_id
-- Returns  1 when it was there, else 0
local removed = redis.call('HDEL', KEYS[1], ARGV[1])
if removed == 1 and redis.call('HINCRBY', KEYS[2], ARGV[2], -1) <= 0 then
  redis.call('HDEL', KEYS[2], ARGV[2])
end
return removed

-- room_leave: remove a connection from a room and from its node's count.
-- KEYS[1]  room hash: connection_id -> client_id
-- KEYS[2]  room counts: node_id -> members
-- ARGV[1]  connection_id
-- ARGV[2]  node_id
-- Returns  1 when it was there, else 0
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then redis.call('UNLINK', KEYS[1]) end -- it is not ours
if redis.call('TYPE', KEYS[2]).ok ~= 'hash' then redis.call('UNLINK', KEYS[2]) end
local removed = redis.call('HDEL', KEYS[1], ARGV[1])
if removed == 1 then
  local left = redis.pcall('HINCRBY', KEYS[2], ARGV[2], -1)
  if type(left) == 'table' or left <= 0 then -- a table: it was no number
    redis.call('HDEL', KEYS[2], ARGV[2])
  end
end
return removed

-- room_leave: remove a connection from a room and from its node's count.
-- KEYS[1]  room hash: connection_id -> client_id
-- KEYS[2]  room counts: node_id -> members
-- ARGV[1]  connection_id
-- ARGV[2]  node_id
-- Returns  1 when it was there, else 0
local removed = redis.pcall('HDEL', KEYS[1], ARGV[1])
if type(removed) == 'table' then -- no hash: it is not ours; else the server takes no writes now
  return string.find(removed.err, '^WRONGTYPE') and 0 or removed
end
if removed == 1 then
  local left = redis.pcall('HINCRBY', KEYS[2], ARGV[2], -1)
  if type(left) == 'table' or left <= 0 then redis.pcall('HDEL', KEYS[2], ARGV[2]) end -- a table: no number, or no hash
end
return removed

-- room_leave: remove a connection from a room and from its node's count, if its stay is still ARGV[3].
-- KEYS[1]  room hash: connection_id -> "<stay> <client_id>"
-- KEYS[2]  room counts: node_id -> members
-- KEYS[3]  unconfirmed events: "<connection_id>:<stay>:<kind>:<room>" -> ""
-- ARGV[1]  connection_id
-- ARGV[2]  node_id
-- ARGV[3]  stay
-- ARGV[4]  "joined" event
-- ARGV[5]  "left" event
-- Returns  {1 if "joined" is unconfirmed else 0, 1 if "left" is unconfirmed else 0}
local value, removed = redis.pcall('HGET', KEYS[1], ARGV[1]), nil
if type(value) == 'table' then -- WRONGTYPE: a foreign key; other errors concern the server
  if not string.find(value.err, '^WRONGTYPE') then return value end
elseif value and string.match(value, '^(%d+) ') == ARGV[3] then
  redis.call('HDEL', KEYS[1], ARGV[1])
  removed = ''
  local left = redis.pcall('HINCRBY', KEYS[2], ARGV[2], -1)
  if type(left) == 'table' or left <= 0 then redis.pcall('HDEL', KEYS[2], ARGV[2]) end -- a table: not a number, or not a hash
end
return {noted(KEYS[3], ARGV[4]) and 1 or 0, noted(KEYS[3], ARGV[5], removed) and 1 or 0}

-- room_join: enter a connection in a room and count it for its node.
-- KEYS[1]  room hash: connection_id -> "<stay> <client_id>"
-- KEYS[2]  room counts: node_id -> members
-- KEYS[3]  unconfirmed events: "<connection_id>:<stay>:<kind>:<room>" -> ""
-- ARGV[1]  connection_id
-- ARGV[2]  stay and client_id
-- ARGV[3]  node_id
-- ARGV[4]  "joined" event, or "" if it needs no report
-- ARGV[5]  earlier connection_id of the same socket, or ""
-- ARGV[6]  node_id of ARGV[5]
-- Returns  1 if the event is unconfirmed, else 0
local new = redis.pcall('HSET', KEYS[1], ARGV[1], ARGV[2])
if type(new) == 'table' then
  -- OOM and NOREPLICAS errors do not concern the key, but UNLINK would be allowed and empty the room.
  if not string.find(new.err, '^WRONGTYPE') then return new end
  redis.call('UNLINK', KEYS[1]) -- not a hash: a foreign key
  new = redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
if new == 1 and redis.call('HLEN', KEYS[1]) == 1 then redis.call('UNLINK', KEYS[2]) end -- counts of lost members
if type(redis.pcall('HINCRBY', KEYS[2], ARGV[3], new)) == 'table' then -- not a number, or not a hash
  if type(redis.pcall('HDEL', KEYS[2], ARGV[3])) == 'table' then redis.call('UNLINK', KEYS[2]) end
  redis.call('HSET', KEYS[2], ARGV[3], 1)
end

if ARGV[5] ~= '' and redis.call('HDEL', KEYS[1], ARGV[5]) == 1 then
  new = 0 -- the socket was a member already
  local left = redis.pcall('HINCRBY', KEYS[2], ARGV[6], -1)
  if type(left) == 'table' or left <= 0 then redis.pcall('HDEL', KEYS[2], ARGV[6]) end
end
if ARGV[4] == '' then return 0 end
return noted(KEYS[3], ARGV[4], new == 1 and '' or nil) and 1 or 0

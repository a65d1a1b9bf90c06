-- room_join: enter a connection in a room and count it for its node.
-- KEYS[1]  room hash: connection_id -> "<stay> <client_id>"
-- KEYS[2]  room counts: node_id -> members
-- KEYS[3]  events that are not confirmed as reported: "<connection_id>:<stay>:<kind>:<room>" -> ""
-- ARGV[1]  connection_id
-- ARGV[2]  stay and client_id
-- ARGV[3]  node_id
-- ARGV[4]  event that it joined, or "" if that is known
-- ARGV[5]  connection_id under which the same socket was in the room before, or ""
-- ARGV[6]  node_id of that
-- Returns  1 when the event is not confirmed as reported, else 0
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

if redis.call('HDEL', KEYS[1], ARGV[5]) == 1 then
  new = 0 -- it was there, and is there
  local left = redis.pcall('HINCRBY', KEYS[2], ARGV[6], -1)
  if type(left) == 'table' or left <= 0 then redis.pcall('HDEL', KEYS[2], ARGV[6]) end
end
if ARGV[4] == '' then return 0 end
return noted(KEYS[3], ARGV[4], new == 1 and '' or nil) and 1 or 0

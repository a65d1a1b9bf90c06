-- presence_leave: end the stay of a connection in a room that clients watch; publish that if it was its client's last.
-- KEYS[1]  shown clients: client_id -> "<connection_id>:<stay> ... <metadata>", and "" -> version
-- ARGV[1]  PUBLISH, or SPUBLISH for sharded channels
-- ARGV[2]  channel
-- ARGV[3]  envelope of the departure
-- ARGV[4]  client_id
-- ARGV[5]  connection_id
-- ARGV[6]  stay
-- Returns  version, or 0 if nothing changed
local value = held(KEYS[1], ARGV[4])
local stays, metadata = string.match(value or '', '^([^{]*)(.*)$')
local kept, was_there = {}, false
for stay in string.gmatch(stays, '%S+:%d+') do
  if stay == ARGV[5] .. ':' .. ARGV[6] then was_there = true else kept[#kept + 1] = stay end
end
if not was_there then return 0 end
if kept[1] then
  redis.call('HSET', KEYS[1], ARGV[4], table.concat(kept, ' ') .. ' ' .. metadata)
  return 0
end
redis.call('HDEL', KEYS[1], ARGV[4])
local version = raise(KEYS[1])
if redis.call('HLEN', KEYS[1]) == 1 then redis.call('UNLINK', KEYS[1]) end -- only the version is left
redis.call(ARGV[1], ARGV[2], placed(ARGV[3], version, version - 1))
return version

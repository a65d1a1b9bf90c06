-- presence_enter: show a connection's client in a room that clients watch; publish that, unless it was shown like this.
-- KEYS[1]  shown clients: client_id -> "<connection_id>:<stay> ... <metadata>", and "" -> version
-- ARGV[1]  PUBLISH, or SPUBLISH for sharded channels
-- ARGV[2]  channel
-- ARGV[3]  envelope of the arrival
-- ARGV[4]  client_id
-- ARGV[5]  connection_id
-- ARGV[6]  stay
-- ARGV[7]  metadata, which begins with {
-- ARGV[8]  earlier connection_id of the same socket, or ""
-- Returns  version, or 0 if nothing changed
local value = held(KEYS[1], ARGV[4])
local stays, metadata = string.match(value or '', '^([^{]*)(.*)$')
local kept = {}
for id, stay in string.gmatch(stays, '(%S+):(%d+)') do
  if id ~= ARGV[5] and id ~= ARGV[8] then kept[#kept + 1] = id .. ':' .. stay end
end
kept[#kept + 1] = ARGV[5] .. ':' .. ARGV[6]
redis.call('HSET', KEYS[1], ARGV[4], table.concat(kept, ' ') .. ' ' .. ARGV[7])
if value and metadata == ARGV[7] then return 0 end
local version = raise(KEYS[1])
redis.call(ARGV[1], ARGV[2], placed(ARGV[3], version, version - 1))
return version

-- client_claim_if_free: enter a connection under its client unless others hold all the places.
-- KEYS[1]  client hash: connection_id -> "<stamp> <visit> <entry>"
-- KEYS[2]  events that are not confirmed as reported: "<connection_id>:<kind>" -> visit
-- ARGV[1]  connection_id
-- ARGV[2]  how many connections the client may have
-- ARGV[3]  entry
-- ARGV[i]  after these, connection_ids of dead nodes, which hold no place
-- Returns  {stamp, 1 if the visit began with this connection and that is not confirmed else 0, visit},
--          or {"0", 0, "", holder's connection_id, ...}
local time = redis.call('TIME')
local stamp, own, visit, holders, dead = time[1] * 1000000 + time[2], nil, nil, {}, {}
for i = 4, #ARGV do dead[ARGV[i]] = true end
local fields = redis.pcall('HGETALL', KEYS[1])
if fields.err then redis.call('UNLINK', KEYS[1]) end -- no hash: it is not ours
for i = 1, #fields, 2 do
  local held, of = entry_of(fields[i], fields[i + 1])
  visit = visit or of
  if held and fields[i] == ARGV[1] then
    own = held -- a claim that is repeated keeps its rank
  elseif held then
    stamp = math.min(math.max(stamp, held + 1), 2^53)
    if not dead[fields[i]] then holders[#holders + 1] = fields[i] end
  end
end
if #holders >= tonumber(ARGV[2]) then return {'0', 0, '', unpack(holders)} end

local text, begun = string.format('%.0f', own or stamp), nil
if not visit then begun = string.sub(redis.sha1hex(ARGV[1]), 1, 16) end
visit = visit or begun
redis.call('HSET', KEYS[1], ARGV[1], text .. ' ' .. visit .. ' ' .. ARGV[3])
return {text, noted(KEYS[2], ARGV[1] .. ':joined', begun) and 1 or 0, visit}

-- client_claim_if_free: enter a connection under its client unless others fill the limit.
-- KEYS[1]  client hash: connection_id -> "<stamp> <visit> <entry>"
-- KEYS[2]  unconfirmed events: "<connection_id>:<kind>" -> visit
-- ARGV[1]  connection_id
-- ARGV[2]  limit of connections of the client
-- ARGV[3]  entry
-- ARGV[i]  after these, connection_ids of dead nodes, which do not count
-- Returns  {stamp, 1 if the visit began with this connection and that is unconfirmed else 0, visit},
--          or {"0", 0, "", connection_id that counts, ...}
local time = redis.call('TIME')
local stamp, own, visit, holders, dead = time[1] * 1000000 + time[2], nil, nil, {}, {}
for i = 4, #ARGV do dead[ARGV[i]] = true end
local fields = redis.pcall('HGETALL', KEYS[1])
if fields.err then redis.call('UNLINK', KEYS[1]) end -- not a hash: a foreign key
for i = 1, #fields, 2 do
  local held, of = entry_of(fields[i], fields[i + 1])
  visit = visit or of
  if held and fields[i] == ARGV[1] then
    own = held -- a repeated claim keeps its rank
  elseif held then
    stamp = math.min(math.max(stamp, held + 1), 2^53)
    if not dead[fields[i]] then holders[#holders + 1] = fields[i] end
  end
end
if #holders >= tonumber(ARGV[2]) then return {'0', 0, '', unpack(holders)} end

local text, visit, begun = enter(KEYS[1], ARGV[1], own or stamp, visit, '', ARGV[3])
return {text, noted(KEYS[2], ARGV[1] .. ':joined', begun) and 1 or 0, visit}

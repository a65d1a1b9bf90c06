-- session_claim_if_free: as client_claim_if_free, for a connection with a session, which takes the former one's place.
-- KEYS[1]  client hash: connection_id -> "<stamp> <visit> <entry>", in which the entry begins with the two sids
-- KEYS[2]  unconfirmed events: "<connection_id>:<kind>" -> visit
-- KEYS[3]  sessions of the client, as in session_begin
-- ARGV[1]  connection_id
-- ARGV[2]  limit of connections of the client; those that are superseded do not count
-- ARGV[3]  entry
-- ARGV[4]  sid of the session that it continues, or ""
-- ARGV[i]  after these, connection_ids of dead nodes, which do not count
-- Returns  {stamp, 1 if the visit began with this connection and that is unconfirmed else 0, visit, 1 if the client may
--          have left the session that it continues else 0, number of superseded, superseded connection_id, ...}, or
--          {"0", 0, "", 0, 0, connection_id that counts, ...}
local time = redis.call('TIME')
local stamp, own, visit, holders, dead = time[1] * 1000000 + time[2], nil, nil, {}, {}
local superseded, taken = {}, {}
for i = 5, #ARGV do dead[ARGV[i]] = true end
local fields = redis.pcall('HGETALL', KEYS[1])
if fields.err then redis.call('UNLINK', KEYS[1]) end -- not a hash: a foreign key
for i = 1, #fields, 2 do
  local held, of = entry_of(fields[i], fields[i + 1])
  visit = visit or of
  if held then taken[held] = true end
  if held and fields[i] == ARGV[1] then
    own = held -- a repeated claim keeps its rank
  elseif held then
    stamp = math.min(math.max(stamp, held + 1), 2^53)
    if sids_of(fields[i + 1]) == ARGV[4] then
      superseded[#superseded + 1] = {id = fields[i], value = fields[i + 1], stamp = held}
    elseif not dead[fields[i]] then
      holders[#holders + 1] = fields[i]
    end
  end
end
if #holders >= tonumber(ARGV[2]) then return {'0', 0, '', 0, 0, unpack(holders)} end

local text, visit, begun = enter(KEYS[1], ARGV[1], own or stamp, visit, '', ARGV[3])
taken[own or stamp] = true
local ids = demote(KEYS[1], superseded, taken)
local first = noted(KEYS[2], ARGV[1] .. ':joined', begun) and 1 or 0
return {text, first, visit, has_left(KEYS[3], ARGV[4]), #ids, unpack(ids)}

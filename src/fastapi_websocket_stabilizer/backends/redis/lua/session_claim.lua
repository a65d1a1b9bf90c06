-- session_claim: as client_claim, for a connection with a session. It supersedes the connection of the former session.
-- KEYS[1]  client hash: connection_id -> "<stamp> <visit> <entry>", in which the entry begins with the two sids
-- KEYS[2]  unconfirmed events: "<connection_id>:<kind>" -> visit
-- KEYS[3]  sessions of the client, as in session_begin
-- ARGV[1]  connection_id
-- ARGV[2]  limit of connections of the client; those that are superseded do not count
-- ARGV[3]  stamp of an earlier claim of the same socket; 0 for none; -µs that a first claim has waited
-- ARGV[4]  connection_id of the earlier claim, or ""
-- ARGV[5]  entry
-- ARGV[6]  visit to continue if the client has no connection, or "" to begin one
-- ARGV[7]  sid
-- ARGV[8]  sid of the session that it continues, or ""
-- Returns  {stamp, 1 if the visit began with it and that is unconfirmed else 0, visit, 1 if the client may have left the
--          session that it continues else 0, number of superseded, superseded connection_id, ..., outranked
--          connection_id, ...}
local ranked, superseded, taken, highest, stamp, visit = {}, {}, {}, 0, tonumber(ARGV[3]), nil
local fields, is_superseded, is_repeated = redis.pcall('HGETALL', KEYS[1]), false, false
if fields.err then redis.call('UNLINK', KEYS[1]) end -- not a hash: a foreign key
for i = 1, #fields, 2 do
  local held, of = entry_of(fields[i], fields[i + 1])
  local sid, former = sids_of(fields[i + 1])
  visit = visit or of
  if held and fields[i] == ARGV[1] then
    stamp, is_repeated = held, true -- a repeated claim keeps its rank
  elseif held and (fields[i] == ARGV[4] or held == tonumber(ARGV[3])) then
    redis.call('HDEL', KEYS[1], fields[i]) -- the same socket under an earlier id
  elseif held and sid and sid == ARGV[8] then
    superseded[#superseded + 1], taken[held] = {id = fields[i], value = fields[i + 1], stamp = held}, true
  elseif held then
    ranked[#ranked + 1], taken[held], highest = {fields[i], held}, true, math.max(highest, held)
    is_superseded = is_superseded or former == ARGV[7]
  end
end

if is_superseded and not is_repeated then
  stamp = lowest(taken) -- the connection of the next session was claimed first
elseif stamp <= 0 then
  stamp = rank(highest, stamp)
end
local text, visit, begun = enter(KEYS[1], ARGV[1], stamp, visit, ARGV[6], ARGV[5])

taken[stamp] = true
local ids = demote(KEYS[1], superseded, taken)
local first, left = noted(KEYS[2], ARGV[1] .. ':joined', begun) and 1 or 0, has_left(KEYS[3], ARGV[8])
local answer = {text, first, visit, left, #ids, unpack(ids)}
ranked[#ranked + 1] = {ARGV[1], is_superseded and 0 or stamp}
table.sort(ranked, function(a, b) return a[2] > b[2] end)
local top = is_superseded and math.min(tonumber(ARGV[2]), #ranked - 1) or tonumber(ARGV[2])
for i = top + 1, #ranked do answer[#answer + 1] = ranked[i][1] end
return answer

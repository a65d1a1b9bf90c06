-- client_claim: enter a connection under its client; return the connections beyond the limit.
-- KEYS[1]  client hash: connection_id -> "<stamp> <visit> <entry>"
-- KEYS[2]  unconfirmed events: "<connection_id>:<kind>" -> visit
-- ARGV[1]  connection_id
-- ARGV[2]  limit of connections of the client
-- ARGV[3]  stamp of an earlier claim of the same socket; 0 for none; -µs that a first claim has waited
-- ARGV[4]  connection_id of the earlier claim, or ""
-- ARGV[5]  entry
-- ARGV[6]  visit to continue if the client has no connection, or "" to begin one
-- Returns  {stamp, 1 if the visit began with it and that is unconfirmed else 0, visit, outranked connection_id, ...}
local ranked, highest, stamp, visit = {}, 0, tonumber(ARGV[3]), nil
local fields = redis.pcall('HGETALL', KEYS[1])
if fields.err then redis.call('UNLINK', KEYS[1]) end -- not a hash: a foreign key
for i = 1, #fields, 2 do
  local held, of = entry_of(fields[i], fields[i + 1])
  visit = visit or of
  if held and fields[i] == ARGV[1] then
    stamp = held -- a repeated claim keeps its rank
  elseif held and (fields[i] == ARGV[4] or held == tonumber(ARGV[3])) then
    redis.call('HDEL', KEYS[1], fields[i]) -- the same socket under an earlier id
  elseif held then
    ranked[#ranked + 1], highest = {fields[i], held}, math.max(highest, held)
  end
end

if stamp <= 0 then stamp = rank(highest, stamp) end
local text, visit, begun = enter(KEYS[1], ARGV[1], stamp, visit, ARGV[6], ARGV[5])

ranked[#ranked + 1] = {ARGV[1], stamp}
table.sort(ranked, function(a, b) return a[2] > b[2] end)
local answer = {text, noted(KEYS[2], ARGV[1] .. ':joined', begun) and 1 or 0, visit}
for i = tonumber(ARGV[2]) + 1, #ranked do answer[#answer + 1] = ranked[i][1] end
return answer

-- client_claim_if_free: enter a connection under its client unless others hold all the places.
-- KEYS[1]  client hash: connection_id -> "<stamp> <entry>"
-- ARGV[1]  connection_id
-- ARGV[2]  how many connections the client may have
-- ARGV[3]  entry
-- Returns  {stamp, connections there before}, or {"0", connections, holder's connection_id, ...}
local time = redis.call('TIME')
local stamp, own, holders = time[1] * 1000000 + time[2], nil, {}
local fields = redis.pcall('HGETALL', KEYS[1])
if fields.err then redis.call('UNLINK', KEYS[1]) end -- no hash: it is not ours
for i = 1, #fields, 2 do
  local held = tonumber(string.match(fields[i + 1], '^%d+')) or math.huge
  if held > 2^53 or not string.match(fields[i], '^[%w_-]+%.[%w_-]+$') then
    -- it is not ours
  elseif fields[i] == ARGV[1] then
    own = held -- a claim that is repeated keeps its rank
  else
    holders[#holders + 1] = fields[i]
    stamp = math.min(math.max(stamp, held + 1), 2^53)
  end
end
if #holders >= tonumber(ARGV[2]) then
  return {'0', #holders, unpack(holders)}
end

local text = string.format('%.0f', own or stamp)
redis.call('HSET', KEYS[1], ARGV[1], text .. ' ' .. ARGV[3])
return {text, #holders}

-- client_claim: enter a connection under its client and name the connections that it outranks.
-- KEYS[1]  client hash: connection_id -> "<stamp> <entry>"
-- ARGV[1]  connection_id
-- ARGV[2]  how many connections the client may have
-- ARGV[3]  stamp of an earlier claim of the same socket, or 0, or -µs that a first claim has waited
-- ARGV[4]  connection_id of that earlier claim, or ""
-- ARGV[5]  entry
-- Returns  {stamp, connections there before, outranked connection_id, ...}
local before = redis.pcall('HLEN', KEYS[1])
if type(before) == 'table' then before = redis.call('UNLINK', KEYS[1]) - 1 end -- no hash: it is not ours
redis.call('HDEL', KEYS[1], ARGV[4])

local ranked, highest, stamp, fields = {}, 0, tonumber(ARGV[3]), redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local held = tonumber(string.match(fields[i + 1], '^%d+')) or math.huge
  local is_ours = held <= 2^53 and string.match(fields[i], '^[%w_-]+%.[%w_-]+$')
  if is_ours and fields[i] == ARGV[1] then
    stamp = held -- a claim that is repeated keeps its rank
  elseif is_ours and held == tonumber(ARGV[3]) then
    redis.call('HDEL', KEYS[1], fields[i]) -- the same socket, under another former id
  elseif is_ours then
    ranked[#ranked + 1], highest = {fields[i], held}, math.max(highest, held)
  end
end

if stamp <= 0 then
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  stamp = stamp == 0 and math.min(math.max(now, highest + 1), 2^53) or now + stamp
end
local text = string.format('%.0f', stamp)
redis.call('HSET', KEYS[1], ARGV[1], text .. ' ' .. ARGV[5])

ranked[#ranked + 1] = {ARGV[1], stamp}
table.sort(ranked, function(a, b) return a[2] > b[2] end)
local answer = {text, before}
for i = tonumber(ARGV[2]) + 1, #ranked do
  answer[#answer + 1] = ranked[i][1]
end
return answer

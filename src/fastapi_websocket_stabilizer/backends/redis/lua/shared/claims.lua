-- Return the rank of a new claim, in µs of Redis time: above all others, or where it would be if it had not waited.
local function rank(highest, waited)
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  return waited == 0 and math.min(math.max(now, highest + 1), 2^53) or now + waited
end

-- Write an entry. A client without a visit continues the known one, or begins one.
-- Return the stamp as text, the visit, and the visit again if it begins.
local function enter(key, connection_id, stamp, visit, known, entry)
  local text, begun = string.format('%.0f', stamp), nil
  if not visit and known == '' then begun = string.sub(redis.sha1hex(connection_id), 1, 16) end
  visit = visit or begun or known
  redis.call('HSET', key, connection_id, text .. ' ' .. visit .. ' ' .. entry)
  return text, visit, begun
end

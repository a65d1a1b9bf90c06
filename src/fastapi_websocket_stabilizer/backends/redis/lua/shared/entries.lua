-- Return the stamp and the visit of an entry, a field of a client's hash; nil for a field with a foreign format.
local function entry_of(connection_id, value)
  local stamp = tonumber(string.match(value, '^%d+')) or math.huge
  if stamp > 2^53 or not string.match(connection_id, '^[%w_-]+%.[%w_-]+$') then return nil end
  return stamp, string.match(value, '^%d+ (%x+) ') or string.sub(redis.sha1hex(connection_id), 1, 16)
end


-- Note that a presence event is to be reported, if there is a value; return the value that is noted, or nil.
local function noted(key, event, value)
  local found = redis.pcall('HGET', key, event)
  if type(found) == 'table' then redis.call('UNLINK', key) end -- no hash: it is not ours
  if value then redis.call('HSET', key, event, value) end
  return value or (type(found) == 'string' and found) or nil
end


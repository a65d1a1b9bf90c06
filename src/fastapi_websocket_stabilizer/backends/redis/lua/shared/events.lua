-- Record an unreported presence event, if there is a value; return the recorded value, or nil.
local function noted(key, event, value)
  local found = redis.pcall('HGET', key, event)
  if type(found) == 'table' then redis.call('UNLINK', key) end -- not a hash: a foreign key
  if value then redis.call('HSET', key, event, value) end
  return value or (type(found) == 'string' and found) or nil
end


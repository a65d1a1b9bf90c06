-- Record an unreported presence event, if there is a value; return the recorded value, or nil.
local function noted(key, event, value)
  local found = value and redis.pcall('HSET', key, event, value) or redis.pcall('HGET', key, event)
  if type(found) == 'table' then
    if string.find(found.err, '^WRONGTYPE') then redis.call('UNLINK', key) end -- not a hash: a foreign key
    if value then redis.call('HSET', key, event, value) end
  end
  return value or (type(found) == 'string' and found) or nil
end


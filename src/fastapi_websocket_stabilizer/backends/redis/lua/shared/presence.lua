-- Return the value of a client that is shown in a room; nil if there is none. A key of another type is replaced.
local function held(key, client)
  local value = redis.pcall('HGET', key, client)
  if type(value) == 'table' then redis.call('UNLINK', key) end -- not a hash: a foreign key
  return type(value) == 'string' and value or nil
end

-- Return the next version. The first one is Redis time in µs, so that no version of an earlier hash is used again.
-- A foreign one that clients could not tell from the next is replaced.
local function raise(key)
  local version = redis.pcall('HINCRBY', key, '', 1)
  if type(version) == 'number' and version > 1 and version < 9007199253000000 then return version end
  local time = redis.call('TIME')
  version = time[1] * 1000000 + time[2]
  redis.call('HSET', key, '', string.format('%.0f', version))
  return version
end

-- Whether numbers can be those of a meta. With a foreign top, ids would leave the integers that clients can have.
local function are_meta(top, base, bytes, count, first, hole, reset)
  return base >= 0 and base <= top and first >= 0 and first <= top and hole >= 0 and hole <= top and reset >= 0
    and reset <= top and top < 9007199253000000 and bytes >= 0 and bytes < 1e12 and count >= 0 and count < 1e12
end

-- Return the meta of a log: top, base, bytes, count, first, hole, reset, time of the last PEXPIRE; zeros without one.
local function meta_of(key)
  local value = redis.pcall('GET', key)
  if type(value) ~= 'string' or #value ~= 64 then return 0, 0, 0, 0, 0, 0, 0, 0 end
  if not are_meta(struct.unpack('<ddddddd', value)) then return 0, 0, 0, 0, 0, 0, 0, 0 end
  return struct.unpack('<dddddddd', value)
end

-- Store the meta of a log: for an hour, or for three times the seconds of the log. ttl is in µs.
local function keep_meta(key, ttl, ...)
  redis.call('SET', key, struct.pack('<dddddddd', ...), 'PX', math.max(3600000, math.ceil(3 * ttl / 1000)))
end

local function id_of(entry)
  return #entry < 8 and 0 or struct.unpack('>I8', entry)
end

-- Whether an entry has an envelope, by the bytes that identify it.
local function is_same(entry, data, length)
  return string.sub(entry, 9, 8 + length) == string.sub(data, 1, length)
end

-- Append entries; return whether the list was the log's, or an error. Another's is replaced, an expired one counted.
local function push(key, count, entries, dropped)
  local length = redis.pcall('RPUSH', key, unpack(entries))
  if length == count + #entries then return true end
  if length == #entries then -- the list had expired
    dropped[3] = dropped[3] + count
    return false
  end
  if type(length) == 'table' and not string.find(length.err, '^WRONGTYPE') then return false, length end
  redis.call('UNLINK', key)
  redis.call('RPUSH', key, unpack(entries))
  return false
end

-- Renew the expiry of a list if an eighth of its time has passed; return the time of the last renewal.
local function renew(key, touched, now, ttl)
  if now - touched <= ttl / 8 then return touched end
  redis.call('PEXPIRE', key, math.ceil(ttl / 800))
  return now
end

-- Drop the oldest entries of a log, at most 127, and count them by bound; return base, bytes, count and first.
local function trim(key, base, bytes, count, first, messages, limit, oldest, dropped)
  local entries, i = redis.call('LRANGE', key, 0, 127), 1
  while entries[i + 1] and (count > messages or bytes > limit or first < oldest) do
    local bound = count > messages and 1 or bytes > limit and 2 or 3
    dropped[bound] = dropped[bound] + 1
    base, first = id_of(entries[i]), id_of(entries[i + 1])
    bytes, count, i = bytes - #entries[i], count - 1, i + 1
  end
  redis.call('LTRIM', key, i - 1, -1)
  return base, bytes, count, first
end

-- Return a reply, with the numbers of dropped entries behind it if there are any.
local function with_dropped(reply, dropped)
  local n = #reply
  if dropped[1] + dropped[2] + dropped[3] > 0 then reply[n + 1], reply[n + 2], reply[n + 3] = unpack(dropped) end
  return reply
end

-- Return the newest entry that is wanted, with its id and the id before it. Older ids than oldest are not examined.
local function find(key, base, oldest, is_wanted)
  local size, entries = 16, nil
  repeat
    size = size * 8
    entries = redis.pcall('LRANGE', key, -size, -1) -- of another type: no entries
    for i = #entries, 1, -1 do
      local id = id_of(entries[i])
      if id < oldest then return nil end
      if is_wanted(id, entries[i]) and (i > 1 or #entries < size) then
        return id, i > 1 and id_of(entries[i - 1]) or base, entries[i]
      end
    end
  until #entries < size
end

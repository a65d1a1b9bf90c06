-- log_append: append entries to logs and publish them, in runs: consecutive entries of one log.
-- KEYS[k]  for each run: list, meta and, if its entry has a key, the id of the first append with that key
-- ARGV[1]  PUBLISH, or SPUBLISH for sharded channels
-- ARGV[a]  for each run: packed settings, channel, envelopes. The settings are doubles: entries, bounds
--          (messages, bytes, age in µs), 1 if there is a key, and of a repeated append the µs since its first try
--          and the length of the envelope's part that identifies it
-- Returns  {for each entry: id, the id before it, receivers or -1 if it was there; dropped ones by bound, if any}
local time = redis.call('TIME')
local now, k, a, reply = time[1] * 1000000 + time[2], 1, 2, {}
local last, dropped = now - 1, {0, 0, 0}
while KEYS[k] do
  local key, channel, data = KEYS[k], ARGV[a + 1], ARGV[a + 2]
  local n, messages, limit, ttl, has_key, age, length = struct.unpack('<ddddddd', ARGV[a])
  local top, base, bytes, count, first, hole, reset, touched = meta_of(KEYS[k + 1])
  local id, previous
  if age > 0 then
    id, previous = find(key, base, now - age, function(_, entry) return is_same(entry, data, length) end)
  end
  if has_key > 0 and not id then id, previous = tonumber(redis.pcall('GET', KEYS[k + 2])), 0 end
  if id then
    reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = id, previous, -1
  else
    local start, entries, size = math.max(last, top) + 1, {}, 0
    for i = 1, n do
      entries[i] = struct.pack('>I8', start + i - 1) .. ARGV[a + 1 + i]
      size = size + #entries[i]
    end
    local is_there, refused = push(key, count, entries, dropped)
    if refused then return refused end
    if not is_there then base, bytes, count, touched = top > 0 and top or start - 1, 0, 0, 0 end
    if count == 0 then first = start end
    last, bytes, count = start + n - 1, bytes + size, count + n
    if count > 1.25 * messages or bytes > 1.25 * limit or first < now - 1.25 * ttl then
      base, bytes, count, first = trim(key, base, bytes, count, first, messages, limit, now - ttl, dropped)
    end
    touched = renew(key, touched, now, ttl)
    keep_meta(KEYS[k + 1], ttl, last, base, bytes, count, first, hole, reset, touched)
    if has_key > 0 then redis.call('SET', KEYS[k + 2], string.format('%.0f', start), 'PX', 300000) end
    for i = 1, n do
      id, previous = start + i - 1, i > 1 and start + i - 2 or top
      local receivers = redis.call(ARGV[1], channel, placed(ARGV[a + 1 + i], id, previous))
      reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = id, previous, receivers
    end
  end
  k, a = k + 2 + has_key, a + 2 + n
end
return with_dropped(reply, dropped)

-- log_after: read a part of a log from an entry on. The entry is searched here, because its place moves.
-- KEYS[1]  list
-- KEYS[2]  meta
-- KEYS[3]  time since which its partition has its content
-- ARGV[1]  id of the entry
-- ARGV[2]  bytes after which the part ends; it has at least two entries if there are so many
-- Returns  {Redis' time in µs, meta, that time, entries}; "" for what is not there or of another type. The entries
--          begin with the newest whose id is not above ARGV[1], or with the oldest
local cursor, limit, near, far = tonumber(ARGV[1]), tonumber(ARGV[2]), 0, 1
local function text_of(value) return type(value) == 'string' and value or '' end
-- Whether the entry at a place, counted from the end, is behind the cursor.
local function is_behind(place)
  local found = redis.pcall('LRANGE', KEYS[1], -place, -place)
  return found[1] and id_of(found[1]) > cursor
end
while is_behind(far) do near, far = far, far * 2 end
while far - near > 1 do
  local middle = math.floor((near + far) / 2)
  if is_behind(middle) then near = middle else far = middle end
end
local entries, size = {}, 0
while far > 0 and (size < limit or #entries < 2) do
  local found = redis.pcall('LRANGE', KEYS[1], -far, -math.max(1, far - 7))
  for i = 1, #found do
    if size < limit or #entries < 2 then entries[#entries + 1], size = found[i], size + #found[i] end
  end
  far = far - 8
end
local time = redis.call('TIME')
local meta, since = redis.pcall('GET', KEYS[2]), redis.pcall('GET', KEYS[3])
return {time[1] * 1000000 + time[2], text_of(meta), text_of(since), entries}

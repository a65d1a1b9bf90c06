-- log_verify: compare a log with what a node has heard of it; put lost entries back, or mark and publish the loss.
-- KEYS[1]  list
-- KEYS[2]  meta
-- ARGV[1]  PUBLISH, or SPUBLISH for sharded channels
-- ARGV[2]  channel
-- ARGV[3]  envelope of the notice
-- ARGV[4]  packed doubles: id of the newest entry heard, id before the first of the tail, age in µs that is kept,
--          length of the last envelope's part that identifies it
-- ARGV[i]  from 5 on, the tail: the entries heard last, without a gap, each as it is in the list
-- Returns  {entries put back: 0 if none is missing, -1 if they are lost, id of the newest entry}
local heard, before, ttl, length = struct.unpack('<dddd', ARGV[4])
local top, base, bytes, count, first, hole, reset, touched = meta_of(KEYS[2])
local key, tail, n = KEYS[1], {}, -1
if heard <= top then
  local id, _, entry = find(key, base, heard, function(id) return id == heard end)
  local is_it = not id or #ARGV < 5 or is_same(entry, string.sub(ARGV[#ARGV], 9), length)
  -- It is another entry if a promoted server with a slow clock has used the id again.
  if is_it and (id or heard == top or heard <= math.max(base, hole, reset)) then return {0, top} end
end
for i = 5, heard > top and #ARGV or 0 do
  if tail[1] or before == top then tail[#tail + 1] = ARGV[i] end
  before = id_of(ARGV[i])
end
if tail[1] and before == heard then
  local is_there, refused = push(key, count, tail, {0, 0, 0})
  if refused then return refused end
  -- Without a meta, a client may have been told that the log is empty. So it does not begin with these entries.
  if not is_there or top == 0 then base, bytes, count = top > 0 and top or id_of(tail[1]) - 1, 0, 0 end
  if count == 0 then first = id_of(tail[1]) end
  for _, entry in ipairs(tail) do bytes = bytes + #entry end
  n, count, touched, top = #tail, count + #tail, 0, heard
  redis.call('PEXPIRE', key, math.ceil(ttl / 800))
else
  hole = math.max(top, heard) + 1 -- an id that no entry has, so no client has it as its position
  top = hole
end
keep_meta(KEYS[2], ttl, top, base, bytes, count, first, hole, reset, touched)
if n < 0 then redis.call(ARGV[1], ARGV[2], placed(ARGV[3], hole, top)) end
return {n, top}

-- mailbox_unread: find where a client without a cursor begins in its mailbox.
-- KEYS[1]  mark
-- KEYS[2]  list
-- KEYS[3]  meta
-- Returns  {id before the first entry that it gets, 1 if entries behind it that are gone are a loss, Redis' time in µs}
local time, mark = redis.call('TIME'), tonumber(redis.pcall('GET', KEYS[1])) or 0
local top, base, _, _, _, hole, reset = meta_of(KEYS[3])
local now = time[1] * 1000000 + time[2]
if mark > 0 then return {mark, 1, now} end
if #redis.pcall('LRANGE', KEYS[2], 0, 0) == 0 then return {top, 0, now} end
return {base, math.max(hole, reset) > base and 1 or 0, now}

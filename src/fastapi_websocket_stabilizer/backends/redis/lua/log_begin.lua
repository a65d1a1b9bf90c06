-- log_begin: note since when partitions have their content, unless that is known.
-- KEYS[i]  time of a partition
-- Returns  Redis' time in µs
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
for _, key in ipairs(KEYS) do redis.call('SET', key, now, 'NX') end
return now

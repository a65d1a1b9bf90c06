-- presence_confirm: remove the notes of many events that were reported. For one server: the keys have several slots.
-- KEYS[i]  unconfirmed events
-- ARGV[from]  number of events of a key, whose names follow; then that of the next key
-- Returns  OK
local from = 1
for _, key in ipairs(KEYS) do
  local to = from + tonumber(ARGV[from])
  local removed = redis.pcall('HDEL', key, unpack(ARGV, from + 1, to))
  -- WRONGTYPE: a foreign key, without notes. Other errors concern the server.
  if type(removed) == 'table' and not string.find(removed.err, '^WRONGTYPE') then return removed end
  from = to + 1
end
return redis.status_reply('OK')

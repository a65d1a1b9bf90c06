-- client_release: remove one connection of a client.
-- KEYS[1]  client hash: connection_id -> "<stamp> <visit> <entry>"
-- KEYS[2]  unconfirmed events: "<connection_id>:<kind>" -> visit, or "" if no visit ended
-- ARGV[1]  connection_id
-- Returns  {1 if this call removed it, or an earlier one that is unconfirmed, else 0,
--          visit whose unconfirmed begin it is or "", visit whose unconfirmed end it is or ""}
local value, ended = redis.pcall('HGET', KEYS[1], ARGV[1]), nil
if type(value) == 'table' then -- WRONGTYPE: a foreign key; other errors concern the server
  if not string.find(value.err, '^WRONGTYPE') then return value end
elseif value then
  redis.call('HDEL', KEYS[1], ARGV[1])
  local _, visit = entry_of(ARGV[1], value)
  ended = visit or ''
  local fields = redis.call('HGETALL', KEYS[1])
  for i = 1, #fields, 2 do
    if entry_of(fields[i], fields[i + 1]) then ended = '' end
  end
end
local left = noted(KEYS[2], ARGV[1] .. ':left', ended)
return {left and 1 or 0, noted(KEYS[2], ARGV[1] .. ':joined') or '', left or ''}

-- client_release: remove exactly one connection of a client.
-- KEYS[1]  client hash
-- ARGV[1]  connection_id
-- Returns  1 when it was there and was the last one, else 0
local removed = redis.pcall('HDEL', KEYS[1], ARGV[1])
if type(removed) == 'table' then -- no hash: it is not ours; else the server takes no writes now
  return string.find(removed.err, '^WRONGTYPE') and 0 or removed
end
return removed == 1 and redis.call('HLEN', KEYS[1]) == 0 and 1 or 0

-- client_release: remove exactly one connection of a client.
-- KEYS[1]  client hash
-- ARGV[1]  connection_id
-- Returns  1 when it was there and was the last one, else 0
if redis.pcall('HDEL', KEYS[1], ARGV[1]) == 1 and redis.call('HLEN', KEYS[1]) == 0 then
  return 1
end
return 0

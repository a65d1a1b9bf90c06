-- client_release: remove exactly one connection of a client.
-- KEYS[1]  client hash
-- ARGV[1]  connection_id
-- Returns  how many connections are left
redis.call('HDEL', KEYS[1], ARGV[1])
return redis.call('HLEN', KEYS[1])

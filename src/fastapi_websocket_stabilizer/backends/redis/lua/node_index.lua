-- node_index: write a line of what must be undone when a node has ended.
-- KEYS[1]  index of the node, of connections or of memberships
-- ARGV[1]  field
-- ARGV[2]  value
-- Returns  1
if type(redis.pcall('HLEN', KEYS[1])) == 'table' then redis.call('UNLINK', KEYS[1]) end -- no hash: it is not ours
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1

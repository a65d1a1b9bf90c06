-- log_delete: remove the entries of a log, and publish that they are lost. Its ids go on.
-- KEYS[1]  list
-- KEYS[2]  meta
-- KEYS[3]  mark of a mailbox; none for other logs
-- ARGV[1]  PUBLISH, or SPUBLISH for sharded channels
-- ARGV[2]  channel
-- ARGV[3]  envelope of the notice
-- Returns  id of the newest entry; 0 if none is known
local top, _, _, _, _, hole = meta_of(KEYS[2])
redis.call('UNLINK', KEYS[1], KEYS[3] or KEYS[1])
if top == 0 then return 0 end
redis.call('SET', KEYS[2], struct.pack('<dddddddd', top, top, 0, 0, 0, hole, top, 0), 'KEEPTTL')
redis.call(ARGV[1], ARGV[2], placed(ARGV[3], top, top))
return top

-- session_forget: remove a room from a session.
-- KEYS[1]  sessions of a client, as in session_begin
-- ARGV[1]  sid
-- ARGV[2]  room
-- ARGV[3]  bytes that this room counts
-- Returns  1 if it was kept, else 0
local session = session_of(redis.pcall('HGET', KEYS[1], ARGV[1]))
if not session or redis.call('HDEL', KEYS[1], session.name .. ' ' .. ARGV[2]) == 0 then return 0 end
session.bytes = session.bytes - ARGV[3]
keep(KEYS[1], ARGV[1], session)
return 1

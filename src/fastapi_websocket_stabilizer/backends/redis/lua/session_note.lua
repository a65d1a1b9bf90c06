-- session_note: keep a room of a session. A room that is kept already does not change.
-- KEYS[1]  sessions of a client, as in session_begin
-- ARGV[1]  sid
-- ARGV[2]  room
-- ARGV[3]  1 if the client entered it by itself, else 0
-- ARGV[4]  limit of bytes of the session
-- ARGV[5]  bytes that this room counts
-- Returns  1 if it is kept, 0 if it exceeds the limit, -1 for an unknown sid
local session = session_of(redis.pcall('HGET', KEYS[1], ARGV[1]))
if not session then return -1 end
local field = session.name .. ' ' .. ARGV[2]
if redis.call('HGET', KEYS[1], field) then return 1 end
session.bytes = session.bytes + ARGV[5]
if session.bytes > tonumber(ARGV[4]) then return 0 end
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], field, string.format('%.0f %s', time[1] * 1000000 + time[2], ARGV[3]))
keep(KEYS[1], ARGV[1], session)
return 1

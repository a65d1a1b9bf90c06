-- session_revoke: remove a room from all sessions of a client.
-- KEYS[1]  sessions of a client, as in session_begin
-- ARGV[1]  room
-- ARGV[2]  bytes that this room counts
-- Returns  number of sessions that had it
local time, had = redis.call('TIME'), 0
for _, session in ipairs(sessions_in(KEYS[1], time[1] * 1000000 + time[2])) do
  if redis.call('HDEL', KEYS[1], session.name .. ' ' .. ARGV[1]) == 1 then
    session.bytes, had = session.bytes - ARGV[2], had + 1
    keep(KEYS[1], session.sid, session)
  end
end
return had

-- session_release: let a session expire, if this connection holds it. One that keeps nothing is removed at once.
-- KEYS[1]  sessions of a client, as in session_begin
-- ARGV[1]  sid
-- ARGV[2]  connection_id
-- ARGV[3]  µs until it expires; 0 to remove it
-- Returns  1 if this connection held it, else 0
local time, released, last = redis.call('TIME'), 0, 0
local now = time[1] * 1000000 + time[2]
for _, session in ipairs(sessions_in(KEYS[1], now)) do
  local is_it = session.sid == ARGV[1] and session.holder == ARGV[2]
  if is_it and (tonumber(ARGV[3]) == 0 or session.bytes + session.mark == 0) then
    drop(KEYS[1], session)
    released = 1
  else
    if is_it and session.ends == 0 then
      session.ends = now + ARGV[3]
      keep(KEYS[1], ARGV[1], session)
    end
    if is_it then released = 1 end
    last = math.max(last, session.ends == 0 and math.huge or session.ends)
  end
end
if last > 0 and last < math.huge then redis.call('PEXPIRE', KEYS[1], math.ceil((last - now) / 1000)) end
return released

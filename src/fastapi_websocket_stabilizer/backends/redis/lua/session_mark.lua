-- session_mark: note the number of the last message of a session that was handled. It only rises.
-- KEYS[1]  sessions of a client, as in session_begin
-- ARGV[1]  sid
-- ARGV[2]  number
-- Returns  1, or 0 for an unknown sid
local session, number = session_of(redis.pcall('HGET', KEYS[1], ARGV[1])), tonumber(ARGV[2])
if not session then return 0 end
if session.mark < number then
  session.mark = number
  keep(KEYS[1], ARGV[1], session)
end
return 1

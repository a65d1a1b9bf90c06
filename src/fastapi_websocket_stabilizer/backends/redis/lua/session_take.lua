-- session_take: give a session to the connection that names it, under a new sid. The former sid is unknown then.
-- KEYS[1]  sessions of a client, as in session_begin
-- ARGV[1]  former sid
-- ARGV[2]  new sid
-- ARGV[3]  connection_id that may hold it from now on
-- ARGV[4]  µs until it expires unless it is held
-- ARGV[5]  mark to set, or "" to keep it
-- Returns  {mark, connection_id that had it, room, its value, ...}, or {} for an unknown sid
local time, found = redis.call('TIME'), {}
local now = time[1] * 1000000 + time[2]
for _, session in ipairs(sessions_in(KEYS[1], now)) do found[session.sid] = session end
local taken = found[ARGV[2]] or found[ARGV[1]] -- the first one if this is a repeated call
if not taken then return {} end
local holder, mark = taken.holder, tonumber(ARGV[5]) or taken.mark
if taken.sid ~= ARGV[2] then
  redis.call('HDEL', KEYS[1], taken.sid)
  taken.holder, taken.ends = ARGV[3], now + ARGV[4]
end
if taken.sid ~= ARGV[2] or taken.mark ~= mark then
  taken.mark = mark
  keep(KEYS[1], ARGV[2], taken)
end
return {string.format('%.0f', mark), holder, unpack(taken.rooms)}

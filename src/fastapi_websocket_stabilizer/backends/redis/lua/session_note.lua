-- session_note: keep a room of a session. What is known of a room that is kept already does not change.
-- KEYS[1]  sessions of a client, as in session_begin
-- ARGV[1]  sid
-- ARGV[2]  room; "" for everybody
-- ARGV[3]  1 if the client entered it by itself, 0 if the application did, - if it was not entered after the connect
-- ARGV[4]  position of its log when the client became a member, or -
-- ARGV[5]  limit of bytes of the session
-- ARGV[6]  bytes that this room counts
-- Returns  1 if it is kept, 0 if it exceeds the limit, -1 for an unknown sid
local session = session_of(redis.pcall('HGET', KEYS[1], ARGV[1]))
if not session then return -1 end
local field = session.name .. ' ' .. ARGV[2]
local held = redis.call('HGET', KEYS[1], field)
local since, by_client = string.match(held or '', '^(%d+) '), string.match(held or '', ' ([01])$')
local value = (since or ARGV[4]) .. ' ' .. (by_client or ARGV[3])
if held == value then return 1 end
if not held then
  session.bytes = session.bytes + ARGV[6]
  if session.bytes > tonumber(ARGV[5]) then return 0 end
  keep(KEYS[1], ARGV[1], session)
end
redis.call('HSET', KEYS[1], field, value)
return 1

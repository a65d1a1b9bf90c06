-- session_begin: make a session of a client, or hold one that is there; remove the oldest ones beyond the limit.
-- KEYS[1]  sessions of a client: sid -> "<name> <began> <ends> <mark> <bytes> <connection_id>", with times in µs of
--          Redis time, ends 0 while it is held, and the name the first sid, or "<sid>-<n>"; "<name> <room>", without a
--          room for everybody -> "<since> <1, 0 or ->", as the arguments of session_note
-- ARGV[1]  sid
-- ARGV[2]  connection_id that holds it
-- ARGV[3]  limit of sessions of the client
-- Returns  number of sessions that were removed before they expired
if hold(KEYS[1], ARGV[1], session_of(redis.pcall('HGET', KEYS[1], ARGV[1])), ARGV[2]) then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local found = sessions_in(KEYS[1], now)
table.sort(found, function(a, b) -- those without a connection first
  if (a.ends > 0) ~= (b.ends > 0) then return a.ends > 0 end
  if a.began ~= b.began then return a.began < b.began end
  return a.sid < b.sid
end)
local over, name, others, number = math.max(0, #found + 1 - tonumber(ARGV[3])), ARGV[1], {}, 1
for i = 1, over do drop(KEYS[1], found[i]) end
-- A session that was taken keeps its name, and its former sid may begin anew: the original of a duplicated tab.
for _, session in ipairs(found) do others[session.name] = true end
while others[name] do name, number = string.format('%s-%d', ARGV[1], number), number + 1 end
hold(KEYS[1], ARGV[1], {name = name, began = now, ends = 0, mark = 0, bytes = 0}, ARGV[2])
return over

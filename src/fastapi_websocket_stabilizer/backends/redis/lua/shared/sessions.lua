-- Return a session, the value of its sid; nil for a missing field or one with a foreign format.
local function session_of(value)
  local parts = type(value) == 'string' and {string.match(value, '^([%w_-]+) (%d+) (%d+) (%d+) (%d+) (%S+)$')} or {}
  local name, began, ends, mark, bytes, holder = unpack(parts)
  if not name then return nil end
  began, ends, mark, bytes = tonumber(began), tonumber(ends), tonumber(mark), tonumber(bytes)
  return {name = name, began = began, ends = ends, mark = mark, bytes = bytes, holder = holder, rooms = {}}
end

-- Write a session, without a negative number of bytes, which session_of would not read.
local function keep(key, sid, session)
  local numbers = {session.began, session.ends, session.mark, math.max(0, session.bytes)}
  redis.call('HSET', key, sid, string.format('%s %.0f %.0f %.0f %.0f %s', session.name, numbers[1], numbers[2],
    numbers[3], numbers[4], session.holder))
end

-- Give a session, if there is one, to the connection that holds it; return it.
local function hold(key, sid, session, holder)
  if session and (session.holder ~= holder or session.ends > 0) then
    session.holder, session.ends = holder, 0
    keep(key, sid, session)
    redis.call('PERSIST', key)
  end
  return session
end

-- Remove a session that sessions_in has returned.
local function drop(key, session)
  local fields = {session.sid}
  for i = 1, #session.rooms, 2 do fields[#fields + 1] = session.name .. ' ' .. session.rooms[i] end
  redis.call('HDEL', key, unpack(fields))
end

-- Return all sessions that have not expired, with their rooms: each name, and then its value. Remove the others.
local function sessions_in(key, now)
  local fields, by_name, found = redis.pcall('HGETALL', key), {}, {}
  if fields.err then redis.call('UNLINK', key) end -- not a hash: a foreign key
  for i = 1, #fields, 2 do
    local session = session_of(fields[i + 1])
    if session then by_name[session.name], session.sid = session, fields[i] end
  end
  for i = 1, #fields, 2 do
    local name, room = string.match(fields[i], '^([%w_-]+) (.*)$')
    local rooms = name and by_name[name] and by_name[name].rooms
    if rooms then rooms[#rooms + 1], rooms[#rooms + 2] = room, fields[i + 1] end
  end
  for _, session in pairs(by_name) do
    if session.ends > 0 and session.ends <= now then drop(key, session) else found[#found + 1] = session end
  end
  return found
end

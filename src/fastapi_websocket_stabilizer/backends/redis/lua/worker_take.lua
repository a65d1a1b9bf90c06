-- worker_take: give a node the lowest number of its group that no live node holds.
-- KEYS[1]  workers of the group: number -> "<node_id> <what it has published>"
-- KEYS[2]  leases: node_id -> deadline, ms of Redis time
-- ARGV[1]  node_id
-- ARGV[2]  largest number of workers
-- ARGV[3]  ms after which a group is forgotten that publishes nothing
-- ARGV[i]  from 4 on, nodes whose process has ended, although they still have a lease
-- Returns  {number, what its last holder has published}; {-1, ""} if all numbers are held
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if type(redis.pcall('HGET', KEYS[1], 0)) == 'table' then redis.call('UNLINK', KEYS[1]) end -- a foreign key
local is_free = {[ARGV[1]] = true}
for i = 4, #ARGV do is_free[ARGV[i]] = true end
for number = 0, ARGV[2] - 1 do
  local entry = redis.call('HGET', KEYS[1], number) or ''
  local holder, body = string.match(entry, '^(%S+) (.*)$')
  local deadline = holder and redis.call('ZSCORE', KEYS[2], holder)
  if is_free[holder or ''] or not deadline or tonumber(deadline) <= now then
    redis.call('HSET', KEYS[1], number, ARGV[1] .. ' ' .. (body or ''))
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
    return {number, body or ''}
  end
end
return {-1, ''}

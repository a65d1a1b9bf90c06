-- Return the sid of an entry, and the sid of the session that its connection continues; nil if it has no session.
local function sids_of(value)
  return string.match(value, '^%d+ %x+ {"session":"([%w_-]+)","former":"([%w_-]*)"')
end

-- Return 1 if a client has sessions, of which the former one may be one, else 0.
local function has_left(key, former)
  if former == '' then return 0 end
  return redis.pcall('HLEN', key) == 0 and 0 or 1 -- an error: a foreign key, which a takeover replaces
end

-- Return the lowest stamp that is not taken.
local function lowest(taken)
  local stamp = 1
  while taken[stamp] do stamp = stamp + 1 end
  return stamp
end

-- Give the lowest ranks to superseded connections, unless they have them; return their ids.
local function demote(key, superseded, taken)
  local ids = {}
  for _, each in ipairs(superseded) do
    local stamp = lowest(taken)
    if stamp < each.stamp then
      redis.call('HSET', key, each.id, (string.gsub(each.value, '^%d+', string.format('%.0f', stamp))))
      taken[stamp] = true
    end
    ids[#ids + 1] = each.id
  end
  return ids
end

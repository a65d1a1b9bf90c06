-- log_policy_replace: replace the policy of a registry, unless it has changed.
-- KEYS[1]  policy
-- ARGV[1]  policy that was found, or ""
-- ARGV[2]  policy to store
-- Returns  policy that is stored then
local value = redis.pcall('GET', KEYS[1])
if type(value) == 'string' and value ~= ARGV[1] then return value end -- else the one found, missing, or a foreign key
return redis.call('SET', KEYS[1], ARGV[2]) and ARGV[2]

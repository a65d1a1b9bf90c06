-- token_secret: agree on the secret that signs reconnect tokens.
-- KEYS[1]  secret
-- ARGV[1]  secret for a registry that has none
-- Returns  the secret of the registry
local secret = redis.pcall('GET', KEYS[1])
if type(secret) ~= 'string' then -- there is none, or it is not ours
  secret = ARGV[1]
  redis.call('SET', KEYS[1], secret)
end
return secret

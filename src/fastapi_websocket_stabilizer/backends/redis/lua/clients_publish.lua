-- clients_publish: publish messages to the nodes of their clients' newest connections, one envelope for each node.
-- KEYS[i]  client hash: connection_id -> "<stamp> <entry>"
-- ARGV[1]  number of newest connections of a client to send to
-- ARGV[2]  length in bytes of the key before the client id
-- ARGV[3]  inbox channel before the node_id
-- ARGV[4]  inbox channel after it
-- ARGV[5]  envelope before its parts
-- ARGV[6]  excluded node_ids, each between two spaces
-- ARGV[message]  at 6 + i, packed message for client i; "" if it is that of client i - 1
-- Returns  {for each client the places of its nodes and a 0, node_ids, receivers of each node's envelope}
local top, prefix = tonumber(ARGV[1]), tonumber(ARGV[2])
local places, nodes, shares, heard, message = {}, {}, {}, {}, nil
for i, key in ipairs(KEYS) do
  message = ARGV[6 + i] == '' and message or 6 + i
  local client, ranked, fields = string.sub(key, prefix + 1), {}, redis.pcall('HGETALL', key)
  for j = 1, #fields, 2 do
    local stamp, node = tonumber(string.match(fields[j + 1], '^%d+')), string.match(fields[j], '^([%w_-]+)%.[%w_-]+$')
    if node and stamp and stamp <= 2^53 then ranked[#ranked + 1] = {stamp, node} end -- else a foreign field
  end
  table.sort(ranked, function(a, b) return a[1] > b[1] end)
  for j = 1, math.min(top, #ranked) do
    local node = ranked[j][2]
    if not shares[node] and not string.find(ARGV[6], ' ' .. node .. ' ', 1, true) then
      nodes[#nodes + 1], shares[node] = node, {place = #nodes + 1}
    end
    local share = shares[node]
    if share and share.message ~= message then share.message, share[#share + 1] = message, ARGV[message] end
    if share and share.client ~= i then -- once for each node, which may hold several of its connections
      share.client, places[#places + 1] = i, share.place
      share[#share + 1] = struct.pack('>BI2', 0xda, #client) .. client -- msgpack: str 16
    end
  end
  places[#places + 1] = 0
end
for i, node in ipairs(nodes) do
  local parts = struct.pack('>BI4', 0xdd, #shares[node]) .. table.concat(shares[node]) -- msgpack: array 32
  heard[i] = redis.call('PUBLISH', ARGV[3] .. node .. ARGV[4], ARGV[5] .. parts)
end
return {places, nodes, heard}

-- clients_publish: publish one envelope to the nodes that hold the clients' newest connections.
-- KEYS[i]  client hash: connection_id -> "<stamp> <entry>"
-- ARGV[1]  how many of a client's connections count
-- ARGV[2]  inbox channel before the node_id
-- ARGV[3]  inbox channel after it
-- ARGV[4]  envelope
-- Returns  for each client the node_ids that took it
local took, answer = {}, {}

local function hand_to(node, nodes)
  if took[node] == nil then
    took[node] = redis.call('PUBLISH', ARGV[2] .. node .. ARGV[3], ARGV[4])
  end
  if took[node] > 0 then
    nodes[#nodes + 1] = node
  end
end

for i, key in ipairs(KEYS) do
  local ranked, nodes = {}, {}
  local fields = redis.call('HGETALL', key)
  for j = 1, #fields, 2 do
    ranked[#ranked + 1] = {fields[j], tonumber(string.match(fields[j + 1], '^%d+'))}
  end
  table.sort(ranked, function(a, b) return a[2] > b[2] end)
  for j = 1, math.min(tonumber(ARGV[1]), #ranked) do
    hand_to(string.match(ranked[j][1], '^(.*)%.'), nodes)
  end
  answer[i] = nodes
end
return answer

-- mailbox_mark: note up to which entry a client has handled its mailbox.
-- KEYS[1]  mark
-- KEYS[2]  meta
-- ARGV[1]  id of the entry
-- ARGV[2]  ms for which the mark is kept
-- Returns  1, or 0 if the mailbox has never had that id or a later one
local id, top = tonumber(ARGV[1]), meta_of(KEYS[2])
if id > top then return 0 end
local mark = tonumber(redis.pcall('GET', KEYS[1])) or 0
if not (mark <= top) then mark = 0 end -- foreign, or of entries that are lost
if id > mark then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
return 1

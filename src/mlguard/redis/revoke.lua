-- Writes revocations, unless another one wrote since they were compared: then it tells what there is.
--
-- KEYS: the hash of all, and its version. ARGV: the version that is known; the latest time at which
-- this may be done, in microseconds of this server's clock; how many fields are to be written; the
-- fields, those to be deleted behind those to be written; the texts to be written.
local time = redis.call('TIME')
local micros = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now = string.format('%.0f', micros)
if micros > tonumber(ARGV[2]) then
    return {'late ' .. now}
end
local version, texts = redis.call('GET', KEYS[2]) or '', tonumber(ARGV[3])
local fields = {unpack(ARGV, 4, #ARGV - texts)}
if version ~= ARGV[1] then
    return {'ok ' .. now, version, redis.call('HMGET', KEYS[1], unpack(fields))}
end
for number, field in ipairs(fields) do
    if number <= texts then
        redis.call('HSET', KEYS[1], field, ARGV[3 + #fields + number])
    else
        redis.call('HDEL', KEYS[1], field)
    end
end
-- Later than any that was seen: one that begins at 1 again in a server that lost all could be known.
local before = tonumber(version) or 0
version = string.format('%.0f', math.max(before + 1, math.floor(micros / 1000)))
redis.call('SET', KEYS[2], version)
return {'ok ' .. now, version}

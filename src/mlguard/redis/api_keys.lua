-- Replaces the API keys of a service, unless another one did since they were read.
--
-- KEYS: the document, and its version. ARGV: the version that was read; the latest time at which
-- this may be done, in microseconds of this server's clock; the document.
local time = redis.call('TIME')
local micros = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now = string.format('%.0f', micros)
if micros > tonumber(ARGV[2]) then
    return {'late ' .. now}
end
local version = redis.call('GET', KEYS[2]) or ''
if version ~= ARGV[1] then
    return {'ok ' .. now, 'changed'}
end
-- Later than any that was seen: one that begins at 1 again in a server that lost all could be known.
version = string.format('%.0f', math.max((tonumber(version) or 0) + 1, math.floor(micros / 1000)))
redis.call('SET', KEYS[1], ARGV[3])
redis.call('SET', KEYS[2], version)
return {'ok ' .. now, version}

-- Sampled rows of one model on their way to whoever judges them, and how far that has come.
--
-- KEYS: the stream of rows; who judges them; how far that is. ARGV: what to do; the latest time at
-- which this may be done, in microseconds of this server's clock; and
--   put: how many rows may wait; seconds for which they are kept; the rows. Says how many it took.
--   claim: who asks; for how many milliseconds. Says the last row that was judged, how many windows
--     were, and what was said of them; or nothing, where another judges.
--   close: who asks; the last row that was judged before; the last one now; what is said of them.
--     Says how many windows were judged, or nothing, where another judges or has.
--   leave: who asks.
local time = redis.call('TIME')
local micros = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now = string.format('%.0f', micros)
if micros > tonumber(ARGV[2]) then
    return {'late ' .. now}
end
local what = ARGV[1]
if what == 'put' then
    local room, kept = tonumber(ARGV[3]) - redis.call('XLEN', KEYS[1]), 0
    for number = 5, #ARGV do
        if kept < room then
            redis.call('XADD', KEYS[1], '*', 'row', ARGV[number])
            kept = kept + 1
        end
    end
    redis.call('EXPIRE', KEYS[1], ARGV[4])
    return {'ok ' .. now, kept}
end
local judge = redis.call('GET', KEYS[2]) or ARGV[3]
if judge ~= ARGV[3] then
    return {'ok ' .. now, false}
elseif what == 'claim' then
    redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
    local known = redis.call('HMGET', KEYS[3], 'last', 'windows', 'said')
    return {'ok ' .. now, known[1] or '0-0', tonumber(known[2] or 0), known[3] or ''}
elseif what == 'close' then
    if (redis.call('HGET', KEYS[3], 'last') or '0-0') ~= ARGV[4] then
        return {'ok ' .. now, false}
    end
    redis.call('HSET', KEYS[3], 'last', ARGV[5], 'said', ARGV[6])
    redis.call('XTRIM', KEYS[1], 'MINID', ARGV[5])
    redis.call('XDEL', KEYS[1], ARGV[5])
    return {'ok ' .. now, redis.call('HINCRBY', KEYS[3], 'windows', 1)}
end
redis.call('DEL', KEYS[2])
return {'ok ' .. now, 1}

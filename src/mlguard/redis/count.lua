-- Changes counters and debits others, all or nothing.
--
-- ARGV: what to do; the latest time at which it may be done, in microseconds of this server's
-- clock; and where it is to count, as JSON: the time to count by in seconds, or false for the
-- server's; who holds what is in flight; for how many milliseconds it does; the counters (kind,
-- number of the key, field, seconds); the changes (number of the counter, limit, units more, when
-- they were charged, whether they are granted); the lines to debit (number of the counter, limit,
-- cost, units more to lease).
local what = ARGV[1]

local function text(number)
    return string.format('%.0f', number)
end

local time = redis.call('TIME')
local micros = tonumber(time[1]) * 1000000 + tonumber(time[2])
if micros > tonumber(ARGV[2]) then
    return 'late ' .. text(micros)
end
if what == 'probe' then
    redis.call('SET', KEYS[1], '', 'EX', 60)
    return 'ok ' .. text(micros)
end
if what == 'read' then
    local found = {'ok ' .. text(micros)}
    for n, key in ipairs(KEYS) do
        found[n + 1] = redis.call('HGETALL', key)
    end
    return found
end
if what == 'reset' then
    redis.call('DEL', unpack(KEYS))
    return 'ok ' .. text(micros)
end

local MOST = 9007199254740992
local asked = cjson.decode(ARGV[3])
local now, holder, hold = asked[1] or micros / 1000000, asked[2], asked[3]
local floor, max, min, match = math.floor, math.max, math.min, string.match

local function bucket_of(at, seconds)
    local bucket = floor(at / seconds)
    -- A division is rounded.
    if bucket * seconds > at then
        return bucket - 1
    elseif at - bucket * seconds >= seconds then
        return bucket + 1
    end
    return bucket
end

-- Debt leads to `most` at most: twice the limit of a window, while a sum forgives nothing.
local function corrected(units, extra, most)
    if extra > 0 then
        return max(units, min(units + extra, most))
    end
    return max(min(0, units), units + extra)
end

local function within(units)
    return max(-MOST, min(units, MOST))
end

local function nothing()
end

-- Each kind loads a counter from what is stored, begins what it is time for, and says what is used
-- of the counter, adds a cost to it, corrects it, grants units, shows what a client needs to know,
-- and what is to be stored.

local window = {}

function window.load(counter, stored)
    local bucket, current, previous, limit = match(stored, '^(-?%d+) (-?%d+) (-?%d+) ([1-9]%d*)$')
    counter.bucket, counter.limit = tonumber(bucket) or 0, tonumber(limit)
    counter.current, counter.previous = tonumber(current) or 0, tonumber(previous) or 0
    counter.ended, counter.ended_of = 0, 1
end

function window.begin(counter, amount)
    local seconds, before = counter.seconds, counter.bucket
    local bucket = bucket_of(now, seconds)
    if bucket > before then
        counter.ended, counter.ended_of = max(0, counter.current), counter.limit or amount
        counter.previous = bucket == before + 1 and counter.current or 0
        counter.bucket, counter.current, counter.limit = bucket, 0, amount
        counter.is_changed = true
    end
    -- Time never runs backwards here.
    counter.share = bucket < before and 1 or 1 - (now - bucket * seconds) / seconds
end

function window.used(counter)
    return counter.previous * counter.share + counter.current
end

function window.add(counter, cost)
    counter.current = min(counter.current + cost, MOST)
end

-- A refund begins nothing, as it goes to the bucket that was charged; so the end of that is told to
-- the next debit.
function window.settle(counter, extra, amount, since)
    if extra > 0 then
        window.begin(counter, amount)
    end
    counter.limit = counter.limit or amount
    local age = counter.bucket - bucket_of(since, counter.seconds)
    if extra > 0 or age <= 0 then
        counter.current = corrected(counter.current, extra, 2 * amount)
    elseif age == 1 then
        counter.previous = corrected(counter.previous, extra, 2 * amount)
    end
end

function window.grant(counter, units, amount)
    window.begin(counter, amount)
    counter.current = max(counter.current - units, -MOST)
end

function window.show(counter)
    return string.format('%.0f %.0f %.0f %.0f %.0f',
        counter.bucket, counter.current, counter.previous, counter.ended, counter.ended_of)
end

function window.store(counter)
    return string.format('%.0f %.0f %.0f %.0f',
        counter.bucket, counter.current, counter.previous, counter.limit)
end

local lifetime = {begin = nothing}

function lifetime.load(counter, stored)
    counter.sum = tonumber(match(stored, '^(-?%d+) ')) or 0
end

function lifetime.used(counter)
    return counter.sum
end

function lifetime.add(counter, cost, amount)
    counter.sum, counter.limit = within(counter.sum + cost), amount
end

function lifetime.settle(counter, extra, amount)
    counter.sum, counter.limit = within(corrected(counter.sum, extra, MOST)), amount
end

function lifetime.grant(counter, units, amount)
    counter.sum, counter.limit = within(counter.sum - units), amount
end

function lifetime.show(counter)
    return text(counter.sum)
end

function lifetime.store(counter)
    return string.format('%.0f %.0f', counter.sum, counter.limit)
end

local flight = {begin = nothing}

function flight.used(counter)
    return counter.others + counter.mine
end

function flight.add(counter, cost)
    counter.mine = min(counter.mine + cost, MOST)
end

function flight.settle(counter, extra)
    counter.mine = max(0, counter.mine + extra)
end

-- Its holder may say what it holds in all.
function flight.grant(counter, units)
    counter.mine = min(max(0, -units), MOST)
end

function flight.show(counter)
    return text(counter.others + counter.mine)
end

local kinds = {window = window, lifetime = lifetime, flight = flight}

local function load_flights(key, counters)
    local of_fields = {}
    for _, counter in ipairs(counters) do
        counter.others, counter.mine = 0, 0
        of_fields[counter.field] = counter
    end
    local found = redis.call('HGETALL', key)
    for n = 1, #found, 2 do
        local who, field = match(found[n], '^(%S+) (.*)$')
        local count, expiry = match(found[n + 1], '^(%d+) (%d+)$')
        local counter = of_fields[field]
        if not who or not count or tonumber(expiry) * 1000 <= micros then
            redis.call('HDEL', key, found[n])
        elseif counter and who == holder then
            counter.mine, counter.was_held = tonumber(count), true
        elseif counter then
            counter.others = counter.others + tonumber(count)
        end
    end
end

-- What is in flight is written again whenever its holder comes by: that is its sign of life.
local function store_flights(key, counters)
    local expiry = text(floor(micros / 1000) + hold)
    local is_held = false
    for _, counter in ipairs(counters) do
        local name = holder .. ' ' .. counter.field
        if counter.mine > 0 then
            redis.call('HSET', key, name, text(counter.mine) .. ' ' .. expiry)
            is_held = true
        elseif counter.was_held then
            redis.call('HDEL', key, name)
        end
    end
    if is_held and redis.call('PTTL', key) < 2 * hold then
        redis.call('PEXPIRE', key, text(4 * hold))
    end
end

local function store(key, counters)
    local pairs_written, longest = {}, 0
    for _, counter in ipairs(counters) do
        if counter.is_changed then
            pairs_written[#pairs_written + 1] = counter.field
            pairs_written[#pairs_written + 1] = counter.kind.store(counter)
            longest = max(longest, counter.seconds)
        end
    end
    if #pairs_written == 0 then
        return
    end
    redis.call('HSET', key, unpack(pairs_written))
    -- A sum stays for ever.
    if longest > 0 and redis.call('TTL', key) < 2 * longest then
        redis.call('EXPIRE', key, text(2 * longest + 60))
    end
end

local counters, of_keys = {}, {}
for n, given in ipairs(asked[4]) do
    local counter = {kind = kinds[given[1]], field = given[3], seconds = given[4]}
    counters[n] = counter
    local of_key = of_keys[given[2]] or {}
    of_keys[given[2]] = of_key
    of_key[#of_key + 1] = counter
end

for number, of_key in ipairs(of_keys) do
    local key = KEYS[number]
    if of_key[1].kind == flight then
        load_flights(key, of_key)
    else
        local fields = {}
        for n, counter in ipairs(of_key) do
            fields[n] = counter.field
        end
        local stored = redis.call('HMGET', key, unpack(fields))
        for n, counter in ipairs(of_key) do
            counter.kind.load(counter, stored[n] or '')
        end
    end
end

for _, change in ipairs(asked[5]) do
    local counter, amount, extra = counters[change[1]], change[2], change[3]
    if change[5] then
        counter.kind.grant(counter, -extra, amount)
    else
        counter.kind.settle(counter, extra, amount, change[4])
    end
    counter.is_changed = true
end

local fits = true
for _, line in ipairs(asked[6]) do
    local counter = counters[line[1]]
    counter.kind.begin(counter, line[2])
    fits = fits and counter.kind.used(counter) + line[3] <= line[2]
end

local answer = {'ok', text(micros), fits and '1' or '0'}
for n, line in ipairs(asked[6]) do
    local counter = counters[line[1]]
    answer[n + 3] = counter.kind.show(counter)
end
if fits then
    for _, line in ipairs(asked[6]) do
        local counter, leased = counters[line[1]], 0
        if line[4] then
            -- The nearer the limit, the less: others come for the rest.
            local left = line[2] - counter.kind.used(counter) - line[3]
            leased = max(0, min(line[4], floor(left / 10)))
            answer[#answer + 1] = text(leased)
        end
        counter.kind.add(counter, line[3] + leased, line[2])
        counter.is_changed = true
    end
end

for number, of_key in ipairs(of_keys) do
    if of_key[1].kind == flight then
        store_flights(KEYS[number], of_key)
    else
        store(KEYS[number], of_key)
    end
end
return table.concat(answer, ' ')

-- Takes every charge or none. KEYS: one a charge. ARGV: kind, limit, window in us, cost for each.
-- Gives: 1 when they were taken, the time in us, then remaining, reset in us, wait in us for each.
--
-- A window is a list of the times at which units were taken, newest first. A bucket is its level, in
-- tokens times the window, at a time. Whole numbers below 2^53 throughout, so nothing is rounded.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local allowed = 1
local states = {}

for i, key in ipairs(KEYS) do
  local at = 4 * (i - 1)
  local limit, window = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local state = { limit = limit, window = window, cost = tonumber(ARGV[at + 4]), now = now, wait = 0 }
  if ARGV[at + 1] == 'bucket' then
    state.is_bucket = true
    local full = limit * window
    local level, since = full, now
    local kept = redis.call('GET', key)
    if kept then
      level, since = string.match(kept, '(%d+) (%d+)')
      level = math.min(full, tonumber(level) + math.max(0, now - tonumber(since)) * limit)
    end
    state.level = level
    if state.cost > limit then
      state.wait = window
    else
      state.wait = math.max(0, math.ceil((state.cost * window - level) / limit))
    end
  else
    local newest = tonumber(redis.call('LINDEX', key, 0))
    if newest and (newest <= now - window or newest > now + window) then
      -- All of it is over; or the clock was set back by more than a window.
      redis.call('DEL', key)
      newest = nil
    end
    -- Where the clock was set back, time stands still for the key rather than to lose the order.
    if newest and newest > now then state.now = newest end
    local count = 0
    if newest then
      local oldest = tonumber(redis.call('LINDEX', key, -1))
      while oldest <= state.now - window do
        redis.call('RPOP', key)
        oldest = tonumber(redis.call('LINDEX', key, -1))
      end
      count = redis.call('LLEN', key)
    end
    state.count = count
    local excess = count + state.cost - limit
    if excess > count then
      state.wait = window
    elseif excess > 0 then
      state.wait = tonumber(redis.call('LINDEX', key, -excess)) + window - state.now
    end
  end
  if state.wait > 0 then allowed = 0 end
  states[i] = state
end

local result = { allowed, now }
for i, key in ipairs(KEYS) do
  local state = states[i]
  local limit, window = state.limit, state.window
  local keep = math.ceil(window / 1000)
  local remaining, reset
  if state.is_bucket then
    if allowed == 1 then
      state.level = state.level - state.cost * window
      redis.call('SET', key, string.format('%.0f %.0f', state.level, now), 'PX', keep)
    end
    remaining = math.floor(state.level / window)
    reset = 0
    if remaining < limit then
      reset = math.ceil(((remaining + 1) * window - state.level) / limit)
    end
  else
    if allowed == 1 then
      local taken = string.format('%.0f', state.now)
      for _ = 1, state.cost do redis.call('LPUSH', key, taken) end
      redis.call('PEXPIRE', key, keep)
      state.count = state.count + state.cost
    end
    remaining = math.max(0, limit - state.count)
    reset = 0
    if state.count > 0 then
      local nth = math.max(0, state.count - limit) + 1
      reset = tonumber(redis.call('LINDEX', key, -nth)) + window - state.now
    end
  end
  table.insert(result, remaining)
  table.insert(result, reset)
  table.insert(result, state.wait)
end
return result

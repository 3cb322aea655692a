-- The requests that wrk sends to /buy. Environment variables select the kind of order:
--   BUY=plain   identical requests for BUY_ITEM, without a key
--   BUY=keyed   a new Idempotency-Key for each request; BUY_RUN makes the keys of a run unique
--   BUY=items   100 items in turn, BUY_ITEM-0 to BUY_ITEM-99
-- Prints one line of JSON at the end.

local kind = os.getenv("BUY") or "plain"
local item = os.getenv("BUY_ITEM") or "hot"
local run = os.getenv("BUY_RUN") or "0"

local function body(name)
   return string.format('{"user_id":"buyer","item_id":"%s"}', name)
end

wrk.method = "POST"
wrk.path = "/buy"
wrk.headers["Content-Type"] = "application/json"
wrk.body = body(item)

local threads = 0
function setup(thread)
   thread:set("number", threads)
   threads = threads + 1
end

if kind ~= "plain" then
   local sent, parts = 0, {}

   function init()
      if kind == "keyed" then
         -- The request is formatted once and split at the key, so that each request is cheap to build.
         wrk.headers["Idempotency-Key"] = "KEY"
         local whole = wrk.format()
         local from, to = whole:find("KEY", 1, true)
         parts = { whole:sub(1, from - 1) .. run .. "-" .. number .. "-", whole:sub(to + 1) }
         request = function()
            sent = sent + 1
            return parts[1] .. sent .. parts[2]
         end
      else
         for n = 0, 99 do
            parts[n + 1] = wrk.format(nil, nil, nil, body(item .. "-" .. n))
         end
         request = function()
            sent = sent + 1
            return parts[sent % 100 + 1]
         end
      end
   end
end

function done(summary, latency)
   local errors = summary.errors
   print(string.format(
      '{"requests":%d,"seconds":%.6f,"refused":%d,"broken":%d,"p50_ms":%.3f,"p99_ms":%.3f}',
      summary.requests, summary.duration / 1e6, errors.status,
      errors.connect + errors.read + errors.write + errors.timeout,
      latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end

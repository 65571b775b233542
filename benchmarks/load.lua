-- A script for wrk: it prints the figures of a run in JSON, as the last line. With the argument
-- "unseen", each request has a head that the server has not seen before. With "paths FILE", the
-- requests take the paths in that file in turn. With "every MILLISECONDS", each connection waits so
-- long before each request.

function init(args)
  if args[1] == "unseen" then
    local count = 0
    request = function()
      count = count + 1
      return wrk.format("GET", wrk.path, { ["X-Request"] = tostring(count) })
    end
  elseif args[1] == "every" then
    local milliseconds = tonumber(args[2])
    delay = function()
      return milliseconds
    end
  elseif args[1] == "paths" then
    local requests, count = {}, 0
    for path in io.lines(args[2]) do
      requests[#requests + 1] = wrk.format("GET", path)
    end
    request = function()
      count = count % #requests + 1
      return requests[count]
    end
  end
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "microseconds": %d, "status": %d, "connect": %d, "read": %d, "write": %d, '
      .. '"timeout": %d, "p50": %d, "p99": %d, "p999": %d}\n',
    summary.requests, summary.duration, errors.status, errors.connect, errors.read, errors.write,
    errors.timeout, latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end

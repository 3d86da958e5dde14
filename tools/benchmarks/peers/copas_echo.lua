-- Copas: an echo server, a coroutine a connection. It answers lines, as its own examples do.
local copas = require "copas"
local socket = require "socket"

local listener = assert(socket.bind("127.0.0.1", 0, 4096))
local address, port = listener:getsockname()

copas.addserver(listener, function(peer)
  peer:setoption("tcp-nodelay", true)
  while true do
    local line = copas.receive(peer, "*l")
    if not line then return end
    copas.send(peer, line .. "\n")
  end
end)

print(("listening on %s:%d"):format(address, port))
io.stdout:flush()
copas.loop()

"""gevent: an echo server, a greenlet a connection."""
import resource
import socket

from gevent.server import StreamServer


def echo(peer, _address):
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while received := peer.recv(4096):
        peer.sendall(received)


limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
server = StreamServer(("127.0.0.1", 0), echo, backlog=4096)
server.max_accept = 1000  # connections taken a turn
server.start()
print(f"listening on 127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()

// Connecting, and the other ways to come by a stream.
#include "net/socket.h"

namespace copse {

namespace {

// A connection to a free port of our own machine can meet itself, and a port can be taken between
// its choice and its use: both pass when tried again.
constexpr int most_attempts = 3;
// A UNIX listener whose queue is full says so at once, and gives no sign when there is room.
constexpr int64_t queue_rest = 1'000'000;

// The first step: a descriptor on its way; -errno.
int begin_connecting(const System& system, const Address& to, bool& done) {
    int family = to.size() ? to.raw()->sa_family : AF_UNSPEC;
    int fd = system.open_socket(system, family, SOCK_STREAM, 0);
    if (fd < 0) return fd;
    if (to.family() != Address::Family::unix_path) Socket::set_nodelay(system, fd);
    int failed = system.connect(system, fd, to.raw(), socklen_t(to.size()));
    done = failed == 0;
    if (done || failed == -EINPROGRESS || failed == -EALREADY) return fd;
    system.close(system, fd);
    return failed;
}

}  // namespace

// Parks until the kernel has decided. A wake-up alone proves nothing: SO_ERROR has the failure, and
// only a socket that has a peer is connected.
Error Socket::finish_connecting(CallDeadline& deadline) {
    for (;;) {
        if (Error error = wait_ready(Direction::write, "connect", deadline)) return error;
        Result<int> pending = getoption(Option::error);
        if (!pending) return pending.error;
        if (*pending) return Error::from_errno(*pending);
        Result<Address> peer = peer_name();
        if (peer) {
            Result<Address> own = own_name();
            bool itself = own && *own == *peer && peer->family() != Address::Family::unix_path;
            return itself ? Error::from_errno(ECONNREFUSED) : Error::none;
        }
        if (peer.error != Error::from_errno(ENOTCONN)) return peer.error;
        loop().exhausted(*watch_, PollEvent::writable);
    }
}

Result<Stream> connect(const Address& to, Duration timeout) {
    Result<Net*> net = Net::obtain();
    if (!net) return {{}, net.error};
    Loop& loop = net.value->loop();
    const System& system = loop.system();
    if (loop.forked()) return {{}, Error::forked};
    CallDeadline deadline{timeout < Duration{} ? INT64_MAX : timeout.count()};
    for (int attempt = 1;; ++attempt) {
        if (Error error = loop.admit()) return {{}, error};
        bool done = false;
        int fd = begin_connecting(system, to, done);
        if (fd == -EAGAIN && to.family() == Address::Family::unix_path) {
            int64_t rest = Duration::add(loop.now(), queue_rest);
            if (deadline.at(loop) <= loop.now()) return {{}, Error::timeout};
            Error woken = loop.park({"connect", rest < deadline.at(loop) ? rest : deadline.at(loop)});
            if (woken && woken != Error::timeout) return {{}, woken};
            continue;
        }
        Error error = Error::from_errno(fd < 0 ? -fd : 0);
        bool again = fd == -EADDRNOTAVAIL && to.port() != 0;
        if (fd >= 0) {
            Result<Socket*> made = Socket::adopt(fd, done ? uint32_t(PollEvent::writable) : 0u);
            if (!made) return {{}, made.error};
            Stream stream = Socket::stream(made.value);
            error = made.value->finish_connecting(deadline);
            if (!error) return {std::move(stream), {}};
            Result<Address> own = stream.getsockname();
            again = own && own->port() == to.port() && error == Error::from_errno(ECONNREFUSED);
            (void)stream.reset();
        }
        if (!again || attempt == most_attempts) return {{}, error};
    }
}

Result<Stream> connect(std::string_view host, uint16_t port, Duration timeout) {
    Result<Net*> net = Net::obtain();
    if (!net) return {{}, net.error};
    Result<Address> address = net.value->find(host, port);
    if (!address) return {{}, address.error};
    return connect(*address, timeout);
}

Stream wrap(int fd) {
    return Socket::stream(Socket::wrap(fd, Socket::Kind::stream));
}

Result<std::pair<Stream, Stream>> pair() {
    Result<Net*> net = Net::obtain();
    if (!net) return {{}, net.error};
    const System& system = net.value->loop().system();
    int ends[2];
    int failed = system.open_pair(system, AF_UNIX, SOCK_STREAM, ends);
    if (failed) return {{}, Error::from_errno(-failed)};
    Result<Socket*> first = Socket::adopt(ends[0], PollEvent::writable);
    Result<Socket*> second = Socket::adopt(ends[1], PollEvent::writable);
    Stream a = Socket::stream(first.value);
    Stream b = Socket::stream(second.value);
    if (!first) return {{}, first.error};
    if (!second) return {{}, second.error};
    return {{std::move(a), std::move(b)}, {}};
}

}  // namespace copse

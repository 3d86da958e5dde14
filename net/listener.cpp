// Listening and accepting.
#include "net/socket.h"

namespace copse {

namespace {

// Connections accepted before others get a turn.
constexpr uint32_t accepts_at_once = 16;
// How long accepting rests at the descriptor limit, unless one is freed.
constexpr int64_t rest_length = 100'000'000;
// After so many failed connections in a row accepting rests.
constexpr int failures_at_once = 1000;
// Descriptors left to the program by a listener that was given no limit: one in so many, and few.
constexpr size_t reserve_share = 16;
constexpr size_t reserve_least = 16;

// An error of the connection that was to be accepted, or of its network; not of the listener.
bool belongs_to_the_peer(int error) {
    switch (error) {
    case ECONNABORTED: case EPROTO: case ENETDOWN: case ENOPROTOOPT: case EHOSTDOWN:
    case EHOSTUNREACH: case ENETUNREACH: case EPERM: case EINTR: case EOPNOTSUPP:
#ifdef ENONET
    case ENONET:
#endif
        return true;
    default:
        return false;
    }
}

bool is_exhaustion(int error) {
    switch (error) {
    case EMFILE: case ENFILE: case ENOBUFS: case ENOMEM:
    case ENOSPC:  // epoll's limit of watches
        return true;
    default:
        return false;
    }
}

size_t connections_allowed(const System& system) {
    size_t limit = system.descriptor_limit(system);
    size_t reserve = limit / reserve_share > reserve_least ? limit / reserve_share : reserve_least;
    return limit > reserve ? limit - reserve : limit;
}

}  // namespace

void ListeningSocket::listen_with(const ListenOptions& options, bool unlinks) {
    unlinks_ = unlinks;
    most_connections_ =
        options.max_connections ? options.max_connections : connections_allowed(system());
}

// At the limit of connections, parks until one has ended.
Error ListeningSocket::make_way() {
    Error woken;
    while (state_ == State::open && most_connections_ && connections_ >= most_connections_) {
        if (woken) return woken;
        Waiter waiter{loop().running_thread()};
        room_.append(waiter);
        woken = loop().park({"a connection to end"}, &waiter);
    }
    if (accepted_in_a_row_ < accepts_at_once) return Error::none;
    accepted_in_a_row_ = 0;
    loop().yield();
    return loop().admit();
}

// Descriptors or kernel memory ran out, or nothing but failures comes: says so once, and rests until
// a descriptor is freed.
Error ListeningSocket::starve(int error) {
    if (!starving_told_) loop().report(loop().running_thread(), Error::from_errno(error).message());
    starving_told_ = true;
    Waiter waiter{loop().running_thread()};
    net_->starved.append(waiter);
    Error woken = loop().park({"a free descriptor", Duration::add(loop().now(), rest_length)}, &waiter);
    if (state_ != State::open) return Error::closed;
    if (waiter.fired) return Error::none;
    return woken == Error::timeout ? loop().admit() : woken;
}

Error ListeningSocket::await_connection() {
    CallDeadline deadline{receive_timeout_};
    while (!readable()) {
        accepted_in_a_row_ = 0;
        if (Error error = wait_ready(Direction::read, "accept", deadline)) return error;
    }
    return Error::none;
}

Result<Stream> ListeningSocket::accept() {
    if (Error error = begin_call()) return {{}, error};
    Hold hold{*this};
    // Whoever is there may be on the way out: the acceptor of a removed server.
    if (receiving_) loop().yield();
    if (receiving_) return {{}, Error::busy};
    Within mark{receiving_};
    for (int failures = 0;;) {
        Error error = make_way();
        if (state_ != State::open) return {{}, Error::closed};
        if (error) return {{}, error};
        if ((error = await_connection())) return {{}, error};
        int fd = system().accept(system(), fd_, nullptr, nullptr);
        int failed = fd < 0 ? -fd : 0;
        if (fd >= 0) {
            ++accepted_in_a_row_;
            Result<Socket*> made = adopt(fd, PollEvent::writable);
            if (made) {
                starving_told_ = false;
                made.value->parent_ = this;
                ++references_;
                ++connections_;
                return {stream(made.value), {}};
            }
            failed = made.error.code();
        }
        if (failed == EAGAIN || failed == EWOULDBLOCK) {
            loop().exhausted(*watch_, PollEvent::readable);
        } else if (is_exhaustion(failed)) {
            if ((error = starve(failed))) return {{}, error};
        } else if (fd < 0 && belongs_to_the_peer(failed)) {
            if (++failures % failures_at_once) loop().pace();
            else if ((error = starve(failed))) return {{}, error};
        } else {
            return {{}, Error::from_errno(failed)};
        }
    }
}

void ListeningSocket::one_less() {
    --connections_;
    wake_acceptors();
}

void ListeningSocket::wake_acceptors() { loop().fire_all(room_); }

// Listener ----------------------------------------------------------------------------------------

namespace {

// The socket of a listener in use, on the OS thread that may use it.
ListeningSocket* my_listener(Socket* socket) {
    if (socket) check(socket->belongs_here(), "a listener used on the OS thread of its loop");
    return static_cast<ListeningSocket*>(socket);
}

}  // namespace

Result<Listener> bind(const Address& address, ListenOptions options) {
    Result<Net*> net = Net::obtain();
    if (!net) return {{}, net.error};
    const System& system = net.value->loop().system();
    if (net.value->loop().forked()) return {{}, Error::forked};
    bool unix_path = address.family() == Address::Family::unix_path;
    int family = address.size() ? address.raw()->sa_family : AF_UNSPEC;
    int fd = system.open_socket(system, family, SOCK_STREAM, 0);
    if (fd < 0) return {{}, Error::from_errno(-fd)};
    int on = 1;
    if (!unix_path) {
        system.set_option(system, fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        Socket::set_nodelay(system, fd);
    }
    int failed = 0;
    if (options.reuseport)
        failed = system.set_option(system, fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    if (!failed) failed = system.bind(system, fd, address.raw(), socklen_t(address.size()));
    bool bound = !failed;
    if (!failed) failed = system.listen(system, fd, options.backlog);
    Result<Socket*> made{};
    if (failed) system.close(system, fd);
    else made = Socket::adopt(fd, 0, Socket::Kind::listening);
    if (failed || !made) {
        if (unix_path && bound && address.host().text[0] != '@')
            system.unlink(system, address.host().c_str());
        return {{}, failed ? Error::from_errno(-failed) : made.error};
    }
    static_cast<ListeningSocket*>(*made)->listen_with(options, unix_path);
    return {Socket::listener(made.value), {}};
}

Result<Listener> bind(std::string_view host, uint16_t port, ListenOptions options) {
    Result<Net*> net = Net::obtain();
    if (!net) return {{}, net.error};
    Result<Address> address = net.value->find(host, port);
    if (!address) return {{}, address.error};
    return bind(*address, options);
}

Listener::Listener(int fd, ListenOptions options)
    : socket_{Socket::wrap(fd, Socket::Kind::listening)} {
    if (socket_) my_listener(socket_)->listen_with(options, false);
}
Listener::Listener(Listener&& other) noexcept : socket_{other.socket_} { other.socket_ = nullptr; }
Listener& Listener::operator=(Listener&& other) noexcept {
    if (this == &other) return *this;
    Listener old{std::move(*this)};
    std::swap(socket_, other.socket_);
    return *this;
}
Listener::~Listener() {
    if (my_listener(socket_)) socket_->abandon();
}

Result<Stream> Listener::accept() {
    if (!my_listener(socket_)) return {{}, Error::closed};
    return my_listener(socket_)->accept();
}
Result<Address> Listener::address() const {
    if (!my_listener(socket_)) return {{}, Error::closed};
    return socket_->own_name();
}
Error Listener::close() { return my_listener(socket_) ? socket_->close() : Error::none; }
size_t Listener::connections() const { return socket_ ? my_listener(socket_)->connections() : 0; }
Error Listener::setoption(Option option, int value) {
    return my_listener(socket_) ? socket_->setoption(option, value) : Error::closed;
}
Error Listener::setoption(Option option, std::string_view value) {
    return my_listener(socket_) ? socket_->setoption(option, value) : Error::closed;
}
Result<int> Listener::getoption(Option option) {
    if (!my_listener(socket_)) return {0, Error::closed};
    return socket_->getoption(option);
}
int Listener::getfd() const { return socket_ ? socket_->fd() : -1; }

}  // namespace copse

// What can be asked and set of a socket.
#include "net/socket.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>

namespace copse {

namespace {

struct Known {
    int level = -1;
    int name = -1;
};

Known option_of(Option option) {
    switch (option) {
    case Option::keepalive: return {SOL_SOCKET, SO_KEEPALIVE};
    case Option::linger: return {SOL_SOCKET, SO_LINGER};
    case Option::reuseaddr: return {SOL_SOCKET, SO_REUSEADDR};
    case Option::reuseport: return {SOL_SOCKET, SO_REUSEPORT};
    case Option::recv_buffer_size: return {SOL_SOCKET, SO_RCVBUF};
    case Option::send_buffer_size: return {SOL_SOCKET, SO_SNDBUF};
    case Option::error: return {SOL_SOCKET, SO_ERROR};
    case Option::tcp_nodelay: return {IPPROTO_TCP, TCP_NODELAY};
    case Option::ipv6_v6only: return {IPPROTO_IPV6, IPV6_V6ONLY};
#ifdef TCP_KEEPIDLE
    case Option::tcp_keepidle: return {IPPROTO_TCP, TCP_KEEPIDLE};
#elif defined(TCP_KEEPALIVE)
    case Option::tcp_keepidle: return {IPPROTO_TCP, TCP_KEEPALIVE};
#endif
#ifdef TCP_KEEPCNT
    case Option::tcp_keepcnt: return {IPPROTO_TCP, TCP_KEEPCNT};
#endif
#ifdef TCP_KEEPINTVL
    case Option::tcp_keepintvl: return {IPPROTO_TCP, TCP_KEEPINTVL};
#endif
#ifdef TCP_USER_TIMEOUT
    case Option::tcp_user_timeout: return {IPPROTO_TCP, TCP_USER_TIMEOUT};
#endif
#ifdef TCP_DEFER_ACCEPT
    case Option::tcp_defer_accept: return {IPPROTO_TCP, TCP_DEFER_ACCEPT};
#endif
#ifdef TCP_FASTOPEN
    case Option::tcp_fastopen: return {IPPROTO_TCP, TCP_FASTOPEN};
#endif
#ifdef TCP_FASTOPEN_CONNECT
    case Option::tcp_fastopen_connect: return {IPPROTO_TCP, TCP_FASTOPEN_CONNECT};
#endif
    default: return {};
    }
}

// As the kernel wants SO_LINGER.
struct LingerValue {
    int on;
    int seconds;
};

}  // namespace

// Small writes are gathered by the loop already. What is accepted inherits it from its listener.
void Socket::set_nodelay(const System& system, int fd) {
    int on = 1;
    system.set_option(system, fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

Error Socket::setoption(Option option, int value) {
    if (Error error = usable()) return error;
    Known known = option_of(option);
    if (known.level < 0 || option == Option::error) return Error::from_errno(ENOPROTOOPT);
    int failed = 0;
    if (option == Option::linger) {
        LingerValue linger{value >= 0, value >= 0 ? value : 0};
        failed = system().set_option(system(), fd_, known.level, known.name, &linger, sizeof linger);
    } else {
        failed = system().set_option(system(), fd_, known.level, known.name, &value, sizeof value);
    }
    return Error::from_errno(-failed);
}

Error Socket::setoption([[maybe_unused]] Option option,
                        [[maybe_unused]] std::string_view name) {
    if (Error error = usable()) return error;
#ifdef SO_BINDTODEVICE
    if (option == Option::bindtodevice)
        return Error::from_errno(-system().set_option(system(), fd_, SOL_SOCKET, SO_BINDTODEVICE,
                                                      name.data(), socklen_t(name.size())));
#endif
    return Error::from_errno(ENOPROTOOPT);
}

Result<int> Socket::getoption(Option option) {
    if (Error error = usable()) return {0, error};
    Known known = option_of(option);
    if (known.level < 0) return {0, Error::from_errno(ENOPROTOOPT)};
    LingerValue value{};
    auto size = socklen_t(option == Option::linger ? sizeof value : sizeof value.on);
    int failed = system().get_option(system(), fd_, known.level, known.name, &value, &size);
    if (failed) return {0, Error::from_errno(-failed)};
    if (option == Option::linger) return {value.on ? value.seconds : -1, {}};
    return {value.on, {}};
}

Result<Address> Socket::peer_name() {
    if (Error error = usable()) return {{}, error};
    Address address;
    socklen_t size = Address::capacity;
    int failed = system().get_peer_name(system(), fd_, address.raw(), &size);
    if (failed) return {{}, Error::from_errno(-failed)};
    address.setsize(size);
    return {address, {}};
}

Result<Address> Socket::own_name() {
    if (fd_ < 0) return {{}, unusable()};
    Address address;
    socklen_t size = Address::capacity;
    int failed = system().get_socket_name(system(), fd_, address.raw(), &size);
    if (failed) return {{}, Error::from_errno(-failed)};
    address.setsize(size);
    return {address, {}};
}

Stats Socket::stats() const {
    int64_t now = system().now(system());
    return {received_, sent_, Duration::nanoseconds(now - made_)};
}

void Socket::settimeouts(Duration send, Duration receive) {
    auto whole = [](Duration d) { return d < Duration{} ? INT64_MAX : d.count(); };
    send_timeout_ = whole(send);
    receive_timeout_ = whole(receive);
}

void Socket::setlimit(size_t receive_bytes, size_t send_bytes) {
    // One past the limit is looked at; so the largest means none.
    if (receive_bytes) receive_limit_ = receive_bytes < SIZE_MAX / 4 ? receive_bytes : SIZE_MAX / 4;
    if (send_bytes) send_limit_ = send_bytes < SIZE_MAX / 4 ? send_bytes : SIZE_MAX / 4;
}

Socket::Name* Socket::make_name(const char* text) {
    size_t size = sizeof(Name);
    void* room = net_->ended() ? system().allocate(system(), size) : loop().allocate(size);
    if (!room) return nullptr;
    auto* name = ::new (room) Name{1, {}};
    copy_name(name->text, text);
    return name;
}

void Socket::drop_name() {
    if (name_ && --name_->holders == 0) system().release(system(), name_, sizeof(Name));
    name_ = nullptr;
    number_ = 0;
}

Error Socket::setname(const char* text) {
    if (!text || !*text) {
        drop_name();
    } else if (name_ && name_->holders == 1) {
        copy_name(name_->text, text);
        number_ = 0;
    } else {
        Name* own = make_name(text);
        if (!own) return Error::no_memory;
        drop_name();
        name_ = own;
    }
    return Error::none;
}

void Socket::name_after_listener(uint32_t number) {
    drop_name();
    const Socket& listener = *parent_;
    if (!listener.name_) return;
    name_ = listener.name_;
    ++name_->holders;
    number_ = number;
}

const char* Socket::name() {
    if (number_) {
        // What must be cut is cut off the listener's.
        Text<24> tail;
        tail.add(":client_").add(number_);
        Text<sizeof name_->text> whole;
        whole.add(name_->text, strnlen(name_->text, sizeof name_->text - 1 - tail.size()));
        Name* own = make_name(whole.add(tail.c_str()).c_str());
        if (!own) return "";
        drop_name();
        name_ = own;
    }
    return name_ ? name_->text : "";
}

}  // namespace copse

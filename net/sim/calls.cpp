// The calls on descriptors, as a kernel answers them.
#include "net/sim/simulation.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <utility>

// Options that not every system has. Where there is no number for one, nobody can ask for it.
#if !defined(TCP_KEEPIDLE) && defined(TCP_KEEPALIVE)
#define TCP_KEEPIDLE TCP_KEEPALIVE
#endif
#ifndef TCP_USER_TIMEOUT
#define TCP_USER_TIMEOUT (-1)
#endif
#ifndef TCP_DEFER_ACCEPT
#define TCP_DEFER_ACCEPT (-2)
#endif
#ifndef TCP_FASTOPEN_CONNECT
#define TCP_FASTOPEN_CONNECT (-3)
#endif

namespace copse::sim::detail {

const char* const call_names[calls] = {
    "allocate", "map", "guard", "poller_open", "poller_add", "poller_remove", "poller_wait",
    "open_socket", "open_pair", "adopt", "close", "bind", "listen", "accept", "connect", "shutdown",
    "get_peer_name", "get_socket_name", "get_option", "set_option", "receive", "send", "unlink",
    "look_up",
};

namespace {

constexpr int first_ephemeral = 32768, last_ephemeral = 60999;
constexpr int most_backlog = 4096;
constexpr int most_fast_open = 4096;
constexpr int largest_type = 10;  // SOCK_PACKET: there is none beyond
constexpr int64_t quiet_length = 60'000'000'000;  // TIME_WAIT
constexpr int least_buffer = 2304, most_buffer = 425984;  // as Linux doubles and bounds them

Machine& of(const System& system) { return Machine::of(system); }

// What most entries do: count, fail if told to, find the endpoint, answer.
template <class Body> auto on(const System& s, Call call, int fd, Body body) {
    Machine& m = of(s);
    using Answer = decltype(body(m, *m.at(fd)));
    if (int error = m.begin(call, fd)) return m.end(Answer(-error));
    Endpoint* e = m.at(fd);
    return m.end(e ? body(m, *e) : Answer(-EBADF));
}

}  // namespace

// Names -------------------------------------------------------------------------------------------

int Name::port() const {
    if (any.sa_family == AF_INET) return ntohs(v4.sin_port);
    return any.sa_family == AF_INET6 ? ntohs(v6.sin6_port) : 0;
}
void Name::set_port(int port) {
    if (any.sa_family == AF_INET) v4.sin_port = htons(uint16_t(port));
    if (any.sa_family == AF_INET6) v6.sin6_port = htons(uint16_t(port));
}
bool Name::is_any() const {
    Name plain = unmapped();
    if (plain.any.sa_family == AF_INET) return plain.v4.sin_addr.s_addr == 0;
    static const in6_addr zero{};
    return any.sa_family == AF_INET6 && memcmp(&v6.sin6_addr, &zero, sizeof zero) == 0;
}
static const uint8_t mapped_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255};
Name Name::unmapped() const {
    if (any.sa_family != AF_INET6) return *this;
    if (memcmp(&v6.sin6_addr, mapped_prefix, sizeof mapped_prefix)) return *this;
    Name plain;
    plain.v4.sin_family = AF_INET;
    plain.v4.sin_port = v6.sin6_port;
    memcpy(&plain.v4.sin_addr, v6.sin6_addr.s6_addr + sizeof mapped_prefix, 4);
    plain.size = sizeof v4;
    return plain;
}
Name Name::mapped() const {
    if (any.sa_family != AF_INET) return *this;
    Name longer;
    longer.v6.sin6_family = AF_INET6;
    longer.v6.sin6_port = v4.sin_port;
    memcpy(&longer.v6.sin6_addr, mapped_prefix, sizeof mapped_prefix);
    memcpy(longer.v6.sin6_addr.s6_addr + sizeof mapped_prefix, &v4.sin_addr, 4);
    longer.size = sizeof v6;
    return longer;
}
void Name::give(sockaddr* out, socklen_t* room) const {
    if (!out || !room) return;
    memcpy(out, bytes, *room < size ? *room : size);
    *room = size;
}

namespace {

// The address that a name stands for, IPv4-mapped ones included. 0: not an IPv4 address.
uint32_t ipv4_of(const Name& name) {
    Name plain = name.unmapped();
    return plain.any.sa_family == AF_INET ? ntohl(plain.v4.sin_addr.s_addr) : 0;
}
bool is_v6_loopback(const Name& name) {
    static const in6_addr loopback = IN6ADDR_LOOPBACK_INIT;
    return name.any.sa_family == AF_INET6 &&
           memcmp(&name.v6.sin6_addr, &loopback, sizeof loopback) == 0;
}
bool is_loopback(const Name& name) { return ipv4_of(name) >> 24 == 127 || is_v6_loopback(name); }

// 0, or what a kernel says to an address of this length and family on such a socket.
int read_name(const Endpoint& e, const sockaddr* from, socklen_t size, Name& out) {
    if (size > sizeof out.bytes || size < sizeof(sa_family_t)) return EINVAL;
    memcpy(out.bytes, from, size);
    out.size = size;
    if (e.family == AF_UNIX)
        return out.any.sa_family == AF_UNIX && size <= sizeof(sockaddr_un) ? 0 : EINVAL;
    size_t least = e.family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    if (size < (e.family == AF_INET ? least : size_t(offsetof(sockaddr_in6, sin6_scope_id))))
        return EINVAL;
    if (out.any.sa_family != e.family) return EAFNOSUPPORT;
    out.size = socklen_t(least);
    return 0;
}

}  // namespace

bool Machine::is_mine(const Name& to) const {
    return to.is_any() || is_loopback(to) || ipv4_of(to) == ip;
}

Machine* Simulation::owner_of(const Name& to, Machine& asking) {
    if (asking.is_mine(to)) return &asking;
    for (Machine* each : machines_)
        if (ipv4_of(to) == each->ip) return each;
    return nullptr;
}

// Descriptors -------------------------------------------------------------------------------------

int Machine::free_descriptor() {
    if (open_count >= descriptor_most - (descriptor_most > 3 ? 3 : 0)) return -EMFILE;
    if (int error = exhaustion()) return -error;
    for (uint32_t i = first_descriptor; i < descriptors.size(); ++i)
        if (!descriptors[i]) return int(i);
    return int(descriptors.size() < first_descriptor ? first_descriptor : descriptors.size());
}

// A fault: what a machine that is short of something says to who wants a descriptor.
int Machine::exhaustion() {
    static constexpr int errors[] = {0, EMFILE, ENFILE, ENOBUFS, ENOMEM};
    return errors[world.trouble(trouble, world.faults.descriptors, 5)];
}

// Gives the endpoint a descriptor that free_descriptor() has found.
int Machine::install(int fd, Endpoint& e) {
    if (uint32_t(fd) >= descriptors.size()) descriptors.resize(uint32_t(fd) + 1);
    descriptors[uint32_t(fd)] = &e;
    e.fd = fd;
    world.take(e);
    ++open_count;
    return fd;
}

int Machine::open_socket_here(int socket_family, int type, int protocol) {
    if (socket_family != AF_INET && socket_family != AF_INET6 && socket_family != AF_UNIX)
        return -EAFNOSUPPORT;
    if (type < 0 || type > largest_type) return -EINVAL;
    if (type != SOCK_STREAM) return -ESOCKTNOSUPPORT;
    bool right = protocol == 0 || protocol == (socket_family == AF_UNIX ? AF_UNIX : IPPROTO_TCP);
    if (!right) return -EPROTONOSUPPORT;
    int fd = free_descriptor();
    if (fd < 0) return fd;
    return install(fd, world.make_endpoint(*this, socket_family));
}

int Machine::open_pair_here(int socket_family, int type, int out[2]) {
    if (type < 0 || type > largest_type) return -EINVAL;
    if (socket_family == AF_INET || socket_family == AF_INET6) return -EOPNOTSUPP;
    if (socket_family != AF_UNIX) return -EAFNOSUPPORT;
    if (type != SOCK_STREAM) return -ESOCKTNOSUPPORT;
    int first = open_socket_here(socket_family, type, 0);
    if (first < 0) return first;
    int second = open_socket_here(socket_family, type, 0);
    if (second < 0) {
        (void)close_here(first);
        return second;
    }
    world.join(*at(first), *at(second));
    out[0] = first;
    out[1] = second;
    return 0;
}

int Machine::close_here(int fd) {
    Endpoint* e = at(fd);
    if (!e) {
        // No program of copse's closes what is not open: it would hit somebody else's some day.
        world.fail_with("host %s: closes descriptor %d, which is not open", name_text, fd);
        return -EBADF;
    }
    untouch(*e);
    e->poll_set = nullptr;
    descriptors[uint32_t(fd)] = nullptr;
    e->fd = -1;
    --open_count;
    world.close(*e);
    world.release(*e);
    return 0;
}

// Ports -------------------------------------------------------------------------------------------

namespace {

// Whether it is bound to that port, or has a connection that comes from it.
bool holds_port(const Endpoint& e, int port) {
    bool holds = e.bound || e.state == Endpoint::State::connecting ||
                 e.state == Endpoint::State::connected;
    return !e.is_unix && holds && e.local.port() == port;
}
bool same_address(const Name& a, const Name& b) {  // of one family
    if (a.any.sa_family == AF_INET) return a.v4.sin_addr.s_addr == b.v4.sin_addr.s_addr;
    return memcmp(&a.v6.sin6_addr, &b.v6.sin6_addr, sizeof a.v6.sin6_addr) == 0;
}

}  // namespace

bool Machine::port_free(const Endpoint& asking, const Name& asked) const {
    Name wanted = asked.unmapped();
    for (const Quiet& each : quiet)
        if (each.port == wanted.port() && each.until > world.time() && !asking.reuse_address)
            return false;
    for (const Endpoint* each : descriptors) {
        if (!each || each == &asking || !holds_port(*each, wanted.port())) continue;
        Name local = each->local.unmapped();
        bool alike = local.any.sa_family == wanted.any.sa_family;
        bool apart = alike && !local.is_any() && !wanted.is_any() && !same_address(local, wanted);
        // The wildcard of IPv6 is IPv4's as well, unless somebody said that it is not.
        const Name& v6 = local.any.sa_family == AF_INET6 ? local : wanted;
        bool other_family = !alike && (each->v6_only || asking.v6_only || !v6.is_any());
        if (apart || other_family) continue;
        if (each->reuse_port && asking.reuse_port) continue;
        bool polite = each->reuse_address && asking.reuse_address;
        if (polite && each->state != Endpoint::State::listening) continue;
        return false;
    }
    return true;
}

// After an orderly end the port is not free at once.
void Machine::let_rest(int port) {
    uint32_t over = 0;
    while (over < quiet.size() && quiet[over].until <= world.time()) ++over;
    quiet.remove(0, over);
    quiet.push({port, world.time() + quiet_length});
}

int Machine::ephemeral_port(const Endpoint& asking) {
    constexpr uint32_t number_of = last_ephemeral - first_ephemeral + 1;
    uint32_t begin = uint32_t(world.chance.noise(ports) % number_of);
    for (uint32_t i = 0; i < number_of; ++i) {
        int port = first_ephemeral + int((begin + i) % number_of);
        Name wanted = asking.local;
        wanted.any.sa_family = sa_family_t(asking.family);
        wanted.set_port(port);
        bool used = false;
        for (const Endpoint* each : descriptors)
            used |= each && !each->is_unix && each->local.port() == port;
        for (const Quiet& each : quiet) used |= each.port == port && each.until > world.time();
        if (!used && port_free(asking, wanted)) return port;
    }
    return 0;
}

void Machine::unbind(Endpoint& e) {
    for (uint32_t i = 0; i < bound.size(); ++i)
        if (bound[i] == &e) return bound.remove(i);
}

int Machine::bind_here(Endpoint& e, const sockaddr* to, socklen_t size) {
    if (e.is_unix) return bind_path(e, to, size);
    Name wanted;
    if (int error = read_name(e, to, size, wanted)) return -error;
    bool idle = e.state == Endpoint::State::fresh || e.state == Endpoint::State::dead;
    if (!idle || e.bound) return -EINVAL;
    if (e.v6_only && wanted.unmapped().any.sa_family == AF_INET) return -EINVAL;
    if (!is_mine(wanted)) return -EADDRNOTAVAIL;
    e.port_chosen = wanted.port() != 0;
    if (wanted.port() == 0) {
        e.local = wanted;
        int port = ephemeral_port(e);
        if (!port) return -EADDRINUSE;
        wanted.set_port(port);
    } else if (!port_free(e, wanted)) {
        return -EADDRINUSE;
    }
    // Who listens at an IPv6 address will not hear of IPv4, asked for or not.
    if (!wanted.is_any() && wanted.unmapped().any.sa_family == AF_INET6) e.v6_only = true;
    e.local = wanted;
    e.bound = true;
    bound.push(&e);
    return 0;
}

int Machine::listen_here(Endpoint& e, int backlog) {
    if (e.state != Endpoint::State::fresh && e.state != Endpoint::State::listening) return -EINVAL;
    if (e.is_unix && !e.bound) return -EINVAL;
    if (!e.bound) {
        e.port_chosen = false;
        e.local.any.sa_family = sa_family_t(e.family);
        e.local.size = e.family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
        int port = ephemeral_port(e);
        if (!port) return -EADDRINUSE;
        e.local.set_port(port);
        e.bound = true;
        bound.push(&e);
    } else if (!e.is_unix && e.state != Endpoint::State::listening && !port_free(e, e.local)) {
        return -EADDRINUSE;
    }
    e.state = Endpoint::State::listening;
    e.backlog = backlog < 0 || backlog > most_backlog ? most_backlog : backlog;
    return 0;
}

int Machine::accept_here(Endpoint& e, sockaddr* from, socklen_t* size) {
    if (e.state != Endpoint::State::listening) return -EINVAL;
    static constexpr int errors[] = {0, ECONNABORTED, EPROTO, ENETDOWN, EHOSTUNREACH, EPERM};
    if (int error = errors[world.trouble(trouble, world.faults.aborted, 6)]) {
        touch(e);
        return -error;
    }
    int fd = e.first_waiting ? free_descriptor() : -EAGAIN;
    if (fd < 0) {
        if (fd != -EAGAIN) touch(e);
        return fd;
    }
    Endpoint& child = *e.first_waiting;
    e.first_waiting = child.next_waiting;
    --e.waiting;
    child.listener = nullptr;
    (void)install(fd, child);
    child.remote.give(from, size);
    world.release(child);  // the queue's
    if (child.keepalive) world.start_probing(child);
    return fd;
}

int Machine::connect_here(Endpoint& e, const sockaddr* to, socklen_t size) {
    if (e.is_unix) return connect_path(e, to, size);
    if (size < sizeof(sa_family_t)) return -EINVAL;
    switch (e.state) {
    case Endpoint::State::fresh: break;
    case Endpoint::State::listening: return -EISCONN;
    case Endpoint::State::connecting: return -EALREADY;
    case Endpoint::State::connected: return std::exchange(e.call_untold, false) ? 0 : -EISCONN;
    case Endpoint::State::dead:
        // The call that tells of the failure is also the one after which all is forgotten.
        if (!e.call_untold) return -EISCONN;
        int error = e.error ? e.error : ECONNABORTED;
        (void)start_over(world, e);
        return -error;
    }
    Name wanted;
    if (int error = read_name(e, to, size, wanted)) return -error;
    Machine* there = world.owner_of(wanted, *this);
    if (!there) return -ENETUNREACH;
    if (!e.bound) {
        e.local.any.sa_family = sa_family_t(e.family);
        e.local.size = wanted.size;
        int port = ephemeral_port(e);
        if (!port) return -EADDRNOTAVAIL;
        e.local.set_port(port);
    }
    if (e.local.is_any()) {
        int port = e.local.port();
        e.local = wanted;
        if (wanted.is_any() || is_loopback(wanted)) {
            constexpr in6_addr v6_loopback = IN6ADDR_LOOPBACK_INIT;
            if (e.family == AF_INET) e.local.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
            else if (wanted.is_any()) e.local.v6.sin6_addr = v6_loopback;
        } else if (e.family == AF_INET) {
            e.local.v4.sin_addr.s_addr = htonl(ip);
        }
        e.local.set_port(port);
    }
    if (wanted.is_any()) {
        int port = wanted.port();
        wanted = e.local;
        wanted.set_port(port);
    }
    e.remote = wanted;
    e.state = Endpoint::State::connecting;
    e.call_untold = true;
    world.begin_connecting(e);
    return -EINPROGRESS;
}

int Machine::shutdown_here(Endpoint& e, int how) {
    if (how < SHUT_RD || how > SHUT_RDWR) return -EINVAL;
    bool receiving = how != SHUT_WR, sending = how != SHUT_RD;
    if (e.state == Endpoint::State::listening) {
        if (e.is_unix) {
            e.receive_ended |= receiving;
            e.send_ended |= sending;
            touch(e);
            return 0;
        }
        if (!receiving) return 0;
        // It listens no more, and keeps its name if it has chosen its port itself.
        world.close(e);
        (void)start_over(world, e);
        return 0;
    }
    if (e.is_unix) {
        e.receive_ended |= receiving;
        e.send_ended |= sending;
        if (e.peer) {
            e.peer->fin_received |= sending;
            if (receiving) e.peer->send_ended = true;
            e.peer->machine->touch(*e.peer);
        }
        touch(e);
        return 0;
    }
    if (e.state == Endpoint::State::connecting) {
        world.close(e);
        start_over(world, e).error = ECONNRESET;
        return 0;
    }
    e.receive_ended |= receiving;
    if (e.state != Endpoint::State::connected) return -ENOTCONN;
    e.call_untold = false;
    if (sending && !e.send_ended) world.end_of_sending(e);
    touch(e);
    return 0;
}

// UNIX paths --------------------------------------------------------------------------------------

Path* Machine::find_path(const Name& wanted) {
    for (Path& each : paths)
        if (each.size == wanted.size && !memcmp(each.text, wanted.path.sun_path,
                                                each.size - offsetof(sockaddr_un, sun_path)))
            return &each;
    return nullptr;
}

namespace {

// Ends a path at its first zero byte, as the kernel does; abstract names are all their bytes.
void trim_path(Name& wanted) {
    constexpr socklen_t head = offsetof(sockaddr_un, sun_path);
    if (wanted.size <= head || wanted.path.sun_path[0] == 0) return;
    size_t length = strnlen(wanted.path.sun_path, wanted.size - head);
    wanted.size = socklen_t(head + length + 1);
}

// There are no folders but these.
bool folder_exists(const char* path) {
    const char* last = strrchr(path, '/');
    if (!last || last == path) return true;
    static const char* const folders[] = {"/tmp", "/run", "/var/run", "."};
    size_t length = size_t(last - path);
    for (const char* each : folders)
        if (strlen(each) == length && !strncmp(each, path, length)) return true;
    return false;
}

}  // namespace

int Machine::bind_path(Endpoint& e, const sockaddr* to, socklen_t size) {
    constexpr socklen_t head = offsetof(sockaddr_un, sun_path);
    Name wanted;
    if (int error = read_name(e, to, size, wanted)) return -error;
    if (e.bound) return wanted.size == head ? 0 : -EINVAL;
    if (wanted.size == head) {  // any name
        wanted.path.sun_path[0] = 0;
        static const char digits[] = "0123456789abcdef";
        uint64_t drawn = world.chance.noise(ports);
        for (int i = 1; i <= 5; ++i) wanted.path.sun_path[i] = digits[drawn >> (4 * i) & 15];
        wanted.size = head + 6;
    }
    trim_path(wanted);
    if (find_path(wanted)) return -EADDRINUSE;
    if (wanted.path.sun_path[0] && !folder_exists(wanted.path.sun_path)) return -ENOENT;
    Path path{};
    path.size = wanted.size;
    memcpy(path.text, wanted.path.sun_path, wanted.size - head);
    path.owner = &e;
    paths.push(path);
    e.local = wanted;
    e.bound = true;
    return 0;
}

int Machine::connect_path(Endpoint& e, const sockaddr* to, socklen_t size) {
    Name wanted;
    if (int error = read_name(e, to, size, wanted)) return -error;
    if (wanted.size <= offsetof(sockaddr_un, sun_path)) return -EINVAL;
    trim_path(wanted);
    Path* path = find_path(wanted);
    if (!path) return wanted.path.sun_path[0] ? -ENOENT : -ECONNREFUSED;
    Endpoint* listener = path->owner;
    if (!listener || listener->state != Endpoint::State::listening || listener->receive_ended)
        return -ECONNREFUSED;
    if (e.state == Endpoint::State::listening) return -EINVAL;
    if (e.state != Endpoint::State::fresh) return -EISCONN;
    if (listener->waiting > listener->backlog) return -EAGAIN;
    Endpoint& child = world.make_endpoint(*this, AF_UNIX);
    child.local = listener->local;
    child.bound = true;  // to its listener's name
    child.remote = e.local;
    e.remote = listener->local;
    world.join(e, child);
    Endpoint** last = &listener->first_waiting;
    while (*last) last = &(*last)->next_waiting;
    *last = &child;
    child.listener = listener;
    ++listener->waiting;
    world.take(child);
    touch(*listener);  // and not the caller, whom Linux does not tell what it knows by now
    return 0;
}

// Options -----------------------------------------------------------------------------------------

int Machine::get_option_here(Endpoint& e, int level, int option, void* out, socklen_t* size) {
    int value = 0;
    if (level == SOL_SOCKET) {
        switch (option) {
        case SO_ERROR:
            value = e.error;
            e.error = 0;
            break;
        case SO_TYPE: value = SOCK_STREAM; break;
        case SO_ACCEPTCONN: value = e.state == Endpoint::State::listening; break;
        case SO_KEEPALIVE: value = e.keepalive; break;
        case SO_REUSEADDR: value = e.reuse_address; break;
        case SO_REUSEPORT: value = e.reuse_port; break;
        case SO_RCVBUF: value = e.receive_buffer; break;
        case SO_SNDBUF: value = e.send_buffer; break;
        case SO_LINGER: {
            linger pair{e.lingers, e.linger_seconds};
            socklen_t copied = *size < sizeof pair ? *size : socklen_t(sizeof pair);
            memcpy(out, &pair, copied);
            *size = copied;
            return 0;
        }
        default: return -ENOPROTOOPT;
        }
    } else if (e.is_unix) {
        return -EOPNOTSUPP;
    } else if (level == IPPROTO_TCP) {
        switch (option) {
        case TCP_NODELAY: value = e.nodelay; break;
        case TCP_KEEPIDLE: value = e.keep_idle; break;
        case TCP_KEEPINTVL: value = e.keep_interval; break;
        case TCP_KEEPCNT: value = e.keep_count; break;
        case TCP_USER_TIMEOUT: value = e.user_timeout; break;
        case TCP_DEFER_ACCEPT: value = e.defer_accept; break;
        case TCP_FASTOPEN: value = e.fast_open; break;
        case TCP_FASTOPEN_CONNECT: value = e.fast_open_connect; break;
        default: return -ENOPROTOOPT;
        }
    } else if (level == IPPROTO_IPV6 && e.family == AF_INET6 && option == IPV6_V6ONLY) {
        value = e.v6_only;
    } else {
        return e.family == AF_INET6 ? -ENOPROTOOPT : -EOPNOTSUPP;
    }
    socklen_t copied = *size < sizeof value ? *size : socklen_t(sizeof value);
    memcpy(out, &value, copied);
    *size = copied;
    return 0;
}

// Linux counts retransmissions, not seconds, and tells how long they take.
static int length_of_retries(int seconds) {
    constexpr int longest = 120, most = 255;
    int length = 0, retries = 0;
    for (int next = 1; length < seconds && retries < most; ++retries) {
        length += next;
        next = next * 2 < longest ? next * 2 : longest;
    }
    return length;
}

int Machine::set_option_here(Endpoint& e, int level, int option, const void* in, socklen_t size) {
    if (level != SOL_SOCKET && e.is_unix) return -EOPNOTSUPP;
    bool of_v6 = level == IPPROTO_IPV6 && e.family == AF_INET6 && option == IPV6_V6ONLY;
    if (level != SOL_SOCKET && level != IPPROTO_TCP && !of_v6) return -ENOPROTOOPT;
    if (size < sizeof(int)) return -EINVAL;
    int value;
    memcpy(&value, in, sizeof value);
    if (level == SOL_SOCKET) {
        switch (option) {
        case SO_KEEPALIVE:
            e.keepalive = value != 0;
            if (e.keepalive) world.start_probing(e);
            return 0;
        case SO_REUSEADDR: e.reuse_address = value != 0; return 0;
        case SO_REUSEPORT:
            if (e.is_unix && value) return -EOPNOTSUPP;
            e.reuse_port = value != 0;
            return 0;
        case SO_RCVBUF:
        case SO_SNDBUF: {
            int doubled = value > most_buffer / 2 ? most_buffer : value * 2;
            int least = option == SO_RCVBUF ? least_buffer : 2 * least_buffer;
            (option == SO_RCVBUF ? e.receive_buffer : e.send_buffer) =
                doubled < least ? least : doubled;
            (option == SO_RCVBUF ? e.receive_buffer_set : e.send_buffer_set) = true;
            return 0;
        }
        case SO_LINGER: {
            if (size < sizeof(linger)) return -EINVAL;
            linger pair;
            memcpy(&pair, in, sizeof pair);
            e.lingers = pair.l_onoff != 0;
            if (e.lingers) e.linger_seconds = pair.l_linger;
            return 0;
        }
        case SO_TYPE:
        case SO_ERROR:
        case SO_ACCEPTCONN:
        default: return -ENOPROTOOPT;
        }
    }
    if (level == IPPROTO_TCP) {
        switch (option) {
        case TCP_NODELAY: e.nodelay = value != 0; return 0;
        case TCP_KEEPIDLE:
            if (value < 1 || value > 32767) return -EINVAL;
            e.keep_idle = value;
            return 0;
        case TCP_KEEPINTVL:
            if (value < 1 || value > 32767) return -EINVAL;
            e.keep_interval = value;
            return 0;
        case TCP_KEEPCNT:
            if (value < 1 || value > 127) return -EINVAL;
            e.keep_count = value;
            return 0;
        case TCP_USER_TIMEOUT:
            if (value < 0) return -EINVAL;
            e.user_timeout = value;
            return 0;
        case TCP_DEFER_ACCEPT: e.defer_accept = length_of_retries(value); return 0;
        case TCP_FASTOPEN:
            if (value < 0) return -EINVAL;
            if (e.state != Endpoint::State::fresh && e.state != Endpoint::State::listening)
                return -EINVAL;
            e.fast_open = value < most_fast_open ? value : most_fast_open;
            return 0;
        case TCP_FASTOPEN_CONNECT:
            if (value < 0 || value > 1 || e.state != Endpoint::State::fresh) return -EINVAL;
            e.fast_open_connect = value;
            return 0;
        default: return -ENOPROTOOPT;
        }
    }
    if (holds_port(e, e.local.port())) return -EINVAL;
    e.v6_only = value != 0;
    return 0;
}

// Names of hosts ----------------------------------------------------------------------------------

int Machine::look_up_here(const char* host, void* out, socklen_t* size) {
    for (uint32_t i = 0; i < world.machines(); ++i) {
        const Machine& each = world.machine_at(i);
        if (strcmp(each.name_text, host)) continue;
        Name wanted;
        wanted.v4.sin_family = AF_INET;
        wanted.v4.sin_addr.s_addr = htonl(each.ip);
        wanted.size = sizeof wanted.v4;
        wanted.give(static_cast<sockaddr*>(out), size);
        return 0;
    }
    return -ENOENT;
}

// The table's entries -----------------------------------------------------------------------------

void Machine::fill_in_descriptors() {
    open_socket = [](const System& s, int family, int type, int protocol) {
        Machine& m = of(s);
        int error = m.begin(Call::open_socket, family);
        return m.end(error ? -error : m.open_socket_here(family, type, protocol));
    };
    open_pair = [](const System& s, int family, int type, int out[2]) {
        Machine& m = of(s);
        int error = m.begin(Call::open_pair, family);
        return m.end(error ? -error : m.open_pair_here(family, type, out));
    };
    adopt = [](const System& s, int fd) {
        return on(s, Call::adopt, fd, [](Machine&, Endpoint&) { return 0; });
    };
    close = [](const System& s, int fd) {
        // Whatever it answers, the descriptor is gone.
        Machine& m = of(s);
        int error = m.begin(Call::close, fd);
        int result = m.close_here(fd);
        return m.end(error ? -error : result);
    };
    bind = [](const System& s, int fd, const sockaddr* to, socklen_t size) {
        return on(s, Call::bind, fd,
                  [&](Machine& m, Endpoint& e) { return m.bind_here(e, to, size); });
    };
    listen = [](const System& s, int fd, int backlog) {
        return on(s, Call::listen, fd,
                  [&](Machine& m, Endpoint& e) { return m.listen_here(e, backlog); });
    };
    accept = [](const System& s, int fd, sockaddr* from, socklen_t* size) {
        return on(s, Call::accept, fd,
                  [&](Machine& m, Endpoint& e) { return m.accept_here(e, from, size); });
    };
    connect = [](const System& s, int fd, const sockaddr* to, socklen_t size) {
        return on(s, Call::connect, fd,
                  [&](Machine& m, Endpoint& e) { return m.connect_here(e, to, size); });
    };
    shutdown = [](const System& s, int fd, int how) {
        return on(s, Call::shutdown, fd,
                  [&](Machine& m, Endpoint& e) { return m.shutdown_here(e, how); });
    };
    get_peer_name = [](const System& s, int fd, sockaddr* out, socklen_t* size) {
        return on(s, Call::get_peer_name, fd, [&](Machine&, Endpoint& e) {
            if (e.state != Endpoint::State::connected) return -ENOTCONN;
            // A UNIX peer may have been given its name since.
            (e.is_unix ? e.peer->local : e.remote).give(out, size);
            return 0;
        });
    };
    get_socket_name = [](const System& s, int fd, sockaddr* out, socklen_t* size) {
        return on(s, Call::get_socket_name, fd, [&](Machine&, Endpoint& e) {
            e.local.give(out, size);
            return 0;
        });
    };
    get_option = [](const System& s, int fd, int level, int option, void* out, socklen_t* size) {
        return on(s, Call::get_option, fd, [&](Machine& m, Endpoint& e) {
            return m.get_option_here(e, level, option, out, size);
        });
    };
    set_option = [](const System& s, int fd, int level, int option, const void* in,
                    socklen_t size) {
        return on(s, Call::set_option, fd, [&](Machine& m, Endpoint& e) {
            return m.set_option_here(e, level, option, in, size);
        });
    };
    receive = [](const System& s, int fd, void* out, size_t size) {
        return on(s, Call::receive, fd, [&](Machine& m, Endpoint& e) {
            return m.world.receive(e, static_cast<char*>(out), size);
        });
    };
    send = [](const System& s, int fd, const iovec* pieces, int many) {
        return on(s, Call::send, fd, [&](Machine& m, Endpoint& e) {
            return m.world.send(e, pieces, many);
        });
    };
    unlink = [](const System& s, const char* path) {
        Machine& m = of(s);
        if (int error = m.begin(Call::unlink, 0)) return m.end(-error);
        for (uint32_t i = 0; i < m.paths.size(); ++i) {
            if (!m.paths[i].text[0] || strcmp(m.paths[i].text, path)) continue;
            m.paths.remove(i);
            return m.end(0);
        }
        return m.end(-ENOENT);
    };
    look_up = [](const System& s, const char* wanted, void* out, socklen_t* size) {
        Machine& m = of(s);
        int error = m.begin(Call::look_up, 0);
        return m.end(error ? -error : m.look_up_here(wanted, out, size));
    };
    descriptor_limit = [](const System& s) { return of(s).descriptor_most; };
}

}  // namespace copse::sim::detail

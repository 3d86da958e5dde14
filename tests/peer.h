// Peer: the other end of a connection, driven by plain system calls that never block.
#pragma once

#include "test.h"

#include <copse/copse.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string>
#include <sys/socket.h>
#include <unistd.h>
#include <utility>

namespace test {

class Peer {
  public:
    Peer() = default;
    explicit Peer(int fd) : fd_{fd} { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }
    Peer(Peer&& other) noexcept : fd_{other.fd_} { other.fd_ = -1; }
    Peer& operator=(Peer&& other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    ~Peer() { close(); }

    int fd() const { return fd_; }

    // How many bytes the kernel took.
    size_t send(std::string_view bytes) const {
        size_t sent = 0;
        while (sent < bytes.size()) {
            ssize_t some = ::send(fd_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
            if (some < 0 && errno == EINTR) continue;
            if (some <= 0) break;
            sent += size_t(some);
        }
        return sent;
    }
    // In a thread: all of them, whatever the buffers hold.
    void send_whole(std::string_view bytes) const {
        while (!bytes.empty()) {
            bytes.remove_prefix(send(bytes));
            if (!bytes.empty() && !copse::wait(fd_, copse::Events::writable)) return;
        }
    }

    // What is there; `ended` tells that nothing more will come, `error` why.
    std::string receive(size_t most = SIZE_MAX) {
        std::string got;
        static char piece[65536];  // not on a thread's stack
        while (got.size() < most) {
            size_t size = most - got.size() < sizeof piece ? most - got.size() : sizeof piece;
            ssize_t some = ::recv(fd_, piece, size, 0);
            if (some < 0 && errno == EINTR) continue;
            if (some > 0) {
                got.append(piece, size_t(some));
                continue;
            }
            if (some == 0 || errno != EAGAIN) {
                ended = true;
                error = some == 0 ? 0 : errno;
            }
            break;
        }
        return got;
    }
    // In a thread: everything until the end.
    std::string receive_to_end() {
        std::string all;
        for (;;) {
            all += receive();
            if (ended || !copse::wait(fd_, copse::Events::readable)) return all;
        }
    }
    std::string receive_exactly(size_t size) {
        std::string all;
        for (;;) {
            all += receive(size - all.size());
            if (all.size() >= size || ended) return all;
            if (!copse::wait(fd_, copse::Events::readable)) return all;
        }
    }

    void end() const { ::shutdown(fd_, SHUT_WR); }
    void close() {
        if (fd_ >= 0) ::close(fd_);
        fd_ = -1;
    }
    void reset() {
        linger at_once{1, 0};
        setsockopt(fd_, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
        close();
    }

    bool ended = false;
    int error = 0;

  private:
    int fd_ = -1;
};

// An address of this machine that no other test uses meanwhile: a port of it that is free stays so.
inline const char* loopback() {
#ifdef __linux__
    static const std::string own = [] {
        unsigned pid = unsigned(getpid());
        return "127." + std::to_string(1 + (pid >> 16) % 250) + "." +
               std::to_string((pid >> 8) % 256) + "." + std::to_string(pid % 256);
    }();
    return own.c_str();
#else
    return "127.0.0.1";
#endif
}

inline void set_now(int fd, int level, int name, int value) {
    setsockopt(fd, level, name, &value, sizeof value);
}

enum class Kind { unix_pair, tcp };

// Two ends of one connection, neither of them copse's. window: the second end's receive buffer.
inline std::pair<int, int> connected_descriptors(Kind kind, int buffer = 0, int window = 0) {
    int ends[2] = {-1, -1};
    if (kind == Kind::unix_pair) {
        REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
        if (buffer) {
            for (int end : ends) set_now(end, SOL_SOCKET, SO_SNDBUF, buffer);
        }
        return {ends[0], ends[1]};
    }
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (buffer || window) set_now(listener, SOL_SOCKET, SO_RCVBUF, buffer ? buffer : window);
    if (buffer) set_now(listener, SOL_SOCKET, SO_SNDBUF, buffer);
    REQUIRE(bind(listener, reinterpret_cast<sockaddr*>(&address), size) == 0);
    REQUIRE(listen(listener, 1) == 0);
    getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
    ends[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (buffer) set_now(ends[0], SOL_SOCKET, SO_RCVBUF, buffer);
    if (buffer) set_now(ends[0], SOL_SOCKET, SO_SNDBUF, buffer);
    REQUIRE(connect(ends[0], reinterpret_cast<sockaddr*>(&address), size) == 0);
    ends[1] = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    REQUIRE(ends[1] >= 0);
    for (int end : ends) set_now(end, IPPROTO_TCP, TCP_NODELAY, 1);
    close(listener);
    return {ends[0], ends[1]};
}

// A stream and the peer it is connected to. buffer: how small to make the kernel's, if not 0;
// window: the same for what the peer receives.
struct Connected {
    copse::Stream stream;
    Peer peer;
    explicit Connected(Kind kind = Kind::unix_pair, int buffer = 0, int window = 0) {
        auto [mine, theirs] = connected_descriptors(kind, buffer, window);
        stream = copse::wrap(mine);
        peer = Peer{theirs};
    }
};

// A connection from outside to a listener of copse's; made at once, accepted later.
inline Peer dial(const copse::Address& to) {
    int fd = socket(to.raw()->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (to.family() != copse::Address::Family::unix_path) set_now(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    REQUIRE(connect(fd, to.raw(), to.size()) == 0);
    return Peer{fd};
}

// Bytes that tell where they are: no two places of a long text look alike for long.
inline std::string pattern(size_t size, unsigned seed = 1) {
    std::string text(size, 0);
    uint32_t state = seed * 2654435761u + 1;
    for (char& c : text) {
        state = state * 1664525u + 1013904223u;
        c = char('a' + (state >> 24) % 26);
    }
    return text;
}

}  // namespace test

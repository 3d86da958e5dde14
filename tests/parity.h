// Parity: one small program of socket calls, run on the real kernel and in the simulated world.
//
// A program is given a Lab: a system table, descriptors that are closed at the end, and a log of
// what it observed. What may differ between two right kernels never gets into the log: port numbers
// and paths become letters in the order in which they were met, a full buffer is full and no more
// is said of it, and readiness is what several looks agree on.
//
// Invariants:
//  - Nothing depends on time. settle() returns when everything under way has arrived.
//  - A program touches the system through the table alone.
#pragma once

#include "machine.h"
#include "runtime/system.h"
#include "test.h"

#include <copse/sim.h>

#include <arpa/inet.h>
#include <errno.h>
#include <functional>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdarg.h>
#include <stddef.h>
#include <string>
#include <sys/un.h>
#include <vector>

namespace parity {

using copse::PollEvent;
using copse::Poller;
using copse::System;

// An address of any family, of any length.
struct Where {
    sockaddr_storage bytes{};
    socklen_t size = 0;
    const sockaddr* raw() const { return reinterpret_cast<const sockaddr*>(&bytes); }
    sockaddr* raw() { return reinterpret_cast<sockaddr*>(&bytes); }
};

inline Where ipv4(int port, const char* text = "127.0.0.1") {
    Where where;
    auto& in = reinterpret_cast<sockaddr_in&>(where.bytes);
    in.sin_family = AF_INET;
    in.sin_port = htons(uint16_t(port));
    inet_pton(AF_INET, text, &in.sin_addr);
    where.size = sizeof in;
    return where;
}
inline Where ipv6(int port, const char* text = "::1") {
    Where where;
    auto& in = reinterpret_cast<sockaddr_in6&>(where.bytes);
    in.sin6_family = AF_INET6;
    in.sin6_port = htons(uint16_t(port));
    inet_pton(AF_INET6, text, &in.sin6_addr);
    where.size = sizeof in;
    return where;
}
// A path with its ending zero byte, or an abstract name, which begins with one and has none.
inline Where unix_name(const std::string& name) {
    Where where;
    auto& un = reinterpret_cast<sockaddr_un&>(where.bytes);
    un.sun_family = AF_UNIX;
    size_t size = name.size() + (name.empty() || name[0] != 0);
    memcpy(un.sun_path, name.c_str(), size);
    where.size = socklen_t(offsetof(sockaddr_un, sun_path) + size);
    return where;
}
inline Where cut_to(Where where, socklen_t size) {
    where.size = size;
    return where;
}
inline int port_of(const Where& where) {
    return ntohs(where.bytes.ss_family == AF_INET6
                     ? reinterpret_cast<const sockaddr_in6&>(where.bytes).sin6_port
                     : reinterpret_cast<const sockaddr_in&>(where.bytes).sin_port);
}

inline const char* error_name(int error) {
    static constexpr struct {
        int error;
        const char* name;
    } names[] = {
        {EAGAIN, "EAGAIN"},             {EPIPE, "EPIPE"},
        {EINVAL, "EINVAL"},             {EBADF, "EBADF"},
        {ECONNRESET, "ECONNRESET"},     {ECONNREFUSED, "ECONNREFUSED"},
        {ECONNABORTED, "ECONNABORTED"}, {EINPROGRESS, "EINPROGRESS"},
        {EALREADY, "EALREADY"},         {EISCONN, "EISCONN"},
        {ENOTCONN, "ENOTCONN"},         {EADDRINUSE, "EADDRINUSE"},
        {EADDRNOTAVAIL, "EADDRNOTAVAIL"}, {EAFNOSUPPORT, "EAFNOSUPPORT"},
        {EOPNOTSUPP, "EOPNOTSUPP"},     {ENOPROTOOPT, "ENOPROTOOPT"},
        {EPROTONOSUPPORT, "EPROTONOSUPPORT"}, {ESOCKTNOSUPPORT, "ESOCKTNOSUPPORT"},
        {ENOENT, "ENOENT"},             {EEXIST, "EEXIST"},
        {ETIMEDOUT, "ETIMEDOUT"},       {EDOM, "EDOM"},
        {ENETUNREACH, "ENETUNREACH"},   {EPROTOTYPE, "EPROTOTYPE"},
        {EPERM, "EPERM"},               {EFAULT, "EFAULT"},
        {ENOTDIR, "ENOTDIR"},           {EACCES, "EACCES"},
        {ENAMETOOLONG, "ENAMETOOLONG"}, {EMSGSIZE, "EMSGSIZE"},
    };
    for (auto& each : names)
        if (each.error == error) return each.name;
    return strerror(error);
}

constexpr int64_t failsafe = 10'000'000'000;  // what has not come by then never will
constexpr int nobodys = 999;                  // a descriptor that is not open
constexpr int roomy = 262144;                 // a buffer that 60,000 bytes fit in, on both sides
constexpr unsigned much = 60000;

class Lab {
  public:
    Lab(const System& system, bool simulated) : system_{system}, simulated_{simulated} {
        poller_ = open_poller();
        if (!simulated_) open_witness();
    }
    ~Lab() {
        while (!open_.empty()) close(open_.back());
        for (const std::string& path : paths_) system_.unlink(system_, path.c_str());
        system_.poller_close(system_, poller_);
    }
    Lab(const Lab&) = delete;

    const System& system() const { return system_; }
    const std::string& log() const { return log_; }

    // The log -----------------------------------------------------------------------------------

    void say(const char* format, ...) __attribute__((format(printf, 2, 3))) {
        char text[512];
        va_list words;
        va_start(words, format);
        vsnprintf(text, sizeof text, format, words);
        va_end(words);
        log_ += text;
        log_ += '\n';
    }
    // An entry's result: what it answered, or the error's name.
    int said(const char* what, ssize_t result) {
        if (result < 0) say("%s: %s", what, error_name(int(-result)));
        else say("%s: %lld", what, (long long)result);
        return int(result);
    }

    // Names -------------------------------------------------------------------------------------

    std::string letter(std::vector<std::string>& met, const std::string& one) {
        for (size_t i = 0; i < met.size(); ++i)
            if (met[i] == one) return std::string(1, char('A' + i));
        met.push_back(one);
        return std::string(1, char('A' + met.size() - 1));
    }
    std::string show(const Where& where) {
        char text[64] = {};
        std::string size = " (" + std::to_string(where.size) + ")";
        if (where.size < sizeof(sa_family_t)) return "nothing" + size;
        int port = port_of(where);
        std::string ports = port ? ":" + letter(ports_, std::to_string(port)) : ":0";
        if (where.bytes.ss_family == AF_INET) {
            auto& in = reinterpret_cast<const sockaddr_in&>(where.bytes);
            inet_ntop(AF_INET, &in.sin_addr, text, sizeof text);
            return text + ports + size;
        }
        if (where.bytes.ss_family == AF_INET6) {
            auto& in = reinterpret_cast<const sockaddr_in6&>(where.bytes);
            inet_ntop(AF_INET6, &in.sin6_addr, text, sizeof text);
            return text + ports + size;
        }
        if (where.bytes.ss_family != AF_UNIX) return "no family" + size;
        auto& un = reinterpret_cast<const sockaddr_un&>(where.bytes);
        size_t length = where.size - offsetof(sockaddr_un, sun_path);
        if (length == 0) return "unnamed" + size;
        if (un.sun_path[0] == 0) {
            std::string name(un.sun_path, length);
            return "abstract " + letter(names_, name) + size;
        }
        // How long a path is depends on this process's number.
        bool ended = un.sun_path[length - 1] == 0;
        return "path " + letter(names_, un.sun_path) + (ended ? " and its zero" : "");
    }
    std::string new_path() {
        static int made = 0;
        char path[64];  // all of one length
        snprintf(path, sizeof path, "/tmp/parity.%d.%06d", int(getpid()), ++made);
        paths_.push_back(path);
        return paths_.back();
    }
    std::string new_abstract_name() {
        std::string name = new_path();
        paths_.pop_back();
        name[0] = 0;
        return name;
    }
    Where name_of(int fd) {
        Where where;
        where.size = sizeof where.bytes;
        system_.get_socket_name(system_, fd, where.raw(), &where.size);
        return where;
    }
    void own_name(int fd, socklen_t room = sizeof(sockaddr_storage)) {
        Where where;
        where.size = room;
        int result = system_.get_socket_name(system_, fd, where.raw(), &where.size);
        if (said("own name", result) == 0) say("  %s", show(where).c_str());
    }
    void peer_name(int fd, socklen_t room = sizeof(sockaddr_storage)) {
        Where where;
        where.size = room;
        int result = system_.get_peer_name(system_, fd, where.raw(), &where.size);
        if (said("peer name", result) == 0) say("  %s", show(where).c_str());
    }

    // Calls that are made ready for, and not observed -------------------------------------------

    int kept(int fd) {
        if (fd >= 0) open_.push_back(fd);
        return fd;
    }
    int socket(int family) {
        int fd = kept(system_.open_socket(system_, family, SOCK_STREAM, 0));
        if (fd < 0) said("socket", fd);
        return fd;
    }
    void close(int fd) {
        for (size_t i = 0; i < open_.size(); ++i) {
            if (open_[i] != fd) continue;
            open_.erase(open_.begin() + long(i));
            system_.close(system_, fd);
            return;
        }
    }
    int set(int fd, int level, int name, int value) {
        return system_.set_option(system_, fd, level, name, &value, sizeof value);
    }
    void linger(int fd, int seconds) {
        struct linger value = {1, seconds};
        system_.set_option(system_, fd, SOL_SOCKET, SO_LINGER, &value, sizeof value);
    }
    // Buffers that hold what the programs leave in them; small writes are not held back.
    int roomy_socket(int family) {
        int fd = socket(family);
        if (family == AF_UNIX) return fd;
        set(fd, SOL_SOCKET, SO_RCVBUF, roomy);
        set(fd, SOL_SOCKET, SO_SNDBUF, roomy);
        set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
        return fd;
    }
    // Some address of that family that nobody has yet.
    Where anywhere(int family) {
        if (family == AF_INET) return ipv4(0);
        return family == AF_INET6 ? ipv6(0) : unix_name(new_path());
    }
    int bound(int family) {
        int fd = roomy_socket(family);
        Where where = anywhere(family);
        int result = system_.bind(system_, fd, where.raw(), where.size);
        if (result) said("bind", result);
        return fd;
    }
    int listener(int family, int backlog = 8) {
        int fd = bound(family);
        int result = system_.listen(system_, fd, backlog);
        if (result) said("listen", result);
        return fd;
    }
    int call_to(int listener, int family) {
        int fd = roomy_socket(family);
        Where where = name_of(listener);
        int result = system_.connect(system_, fd, where.raw(), where.size);
        if (result && result != -EINPROGRESS) said("connect", result);
        settle();
        return fd;
    }
    int accepted(int listener) {
        settle();
        return kept(system_.accept(system_, listener, nullptr, nullptr));
    }
    void put(int fd, unsigned size) {
        std::string bytes = pattern(0, size);
        for (size_t done = 0; done < size;) {
            iovec piece{bytes.data() + done, size - done};
            ssize_t sent = system_.send(system_, fd, &piece, 1);
            if (sent < 0) {
                said("put", sent);
                return;
            }
            done += size_t(sent);
        }
    }

    // Calls that are observed -------------------------------------------------------------------

    int bind(int fd, const Where& to) {
        return said("bind", system_.bind(system_, fd, to.raw(), to.size));
    }
    int listen(int fd, int backlog) { return said("listen", system_.listen(system_, fd, backlog)); }
    int connect(int fd, const Where& to) {
        int result = said("connect", system_.connect(system_, fd, to.raw(), to.size));
        settle();
        return result;
    }
    int accept(int fd, socklen_t room = sizeof(sockaddr_storage)) {
        Where from;
        from.size = room;
        int child = kept(system_.accept(system_, fd, from.raw(), &from.size));
        if (child < 0) return said("accept", child);
        say("accept: from %s", show(from).c_str());
        return child;
    }
    void shutdown(int fd, int how) {
        said("shutdown", system_.shutdown(system_, fd, how));
        settle();
    }
    ssize_t receive(int fd, size_t size) {
        std::string bytes(size, 0);
        ssize_t got = system_.receive(system_, fd, bytes.data(), size);
        said("receive", got);
        if (got > 0) say("  \"%.*s\"", int(got < 10 ? got : 10), bytes.data());
        return got;
    }
    ssize_t send(int fd, size_t size) {
        std::string bytes = pattern(0, size);
        iovec piece{bytes.data(), size};
        ssize_t sent = said("send", system_.send(system_, fd, &piece, 1));
        settle();
        return sent;
    }
    void pending_error(int fd) {
        int value = 0;
        socklen_t size = sizeof value;
        int result = system_.get_option(system_, fd, SOL_SOCKET, SO_ERROR, &value, &size);
        if (result) said("SO_ERROR", result);
        else say("SO_ERROR: %s", value ? error_name(value) : "none");
    }
    void option(int fd, int level, int name, socklen_t room = sizeof(int)) {
        int value[4] = {};
        int result = system_.get_option(system_, fd, level, name, value, &room);
        if (said("get", result) == 0) say("  %d, %d (%u)", value[0], value[1], unsigned(room));
    }
    // Everything there is to read, and how it ends.
    void read_on(int fd) {
        uint64_t total = 0;
        bool right = true;
        std::string bytes(8192, 0);
        while (true) {
            ssize_t got = system_.receive(system_, fd, bytes.data(), bytes.size());
            if (got <= 0) {
                const char* end = got ? error_name(int(-got)) : "the end";
                say("read %llu bytes%s, then %s", (unsigned long long)total,
                    right ? "" : " OUT OF ORDER", end);
                return;
            }
            right &= bytes.compare(0, size_t(got), pattern(total, size_t(got))) == 0;
            total += uint64_t(got);
            settle();
        }
    }
    // Until nothing fits any more; how much that was is the kernel's own affair.
    uint64_t fill(int fd) {
        uint64_t total = 0;
        std::string bytes(26 * 1024, 0);
        while (true) {
            bytes = pattern(total, bytes.size());
            iovec piece{bytes.data(), bytes.size()};
            ssize_t sent = system_.send(system_, fd, &piece, 1);
            if (sent > 0) {
                total += uint64_t(sent);
                continue;
            }
            // What was under way may have made room.
            settle();
            sent = system_.send(system_, fd, &piece, 1);
            if (sent > 0) {
                total += uint64_t(sent);
                continue;
            }
            say("filled: %s, then %s", total ? "something" : "nothing", error_name(int(-sent)));
            return total;
        }
    }
    // Reads so many bytes, however long they take to come.
    void drain(int fd, uint64_t size) {
        uint64_t total = 0;
        std::string bytes(65536, 0);
        for (int idle = 0; total < size && idle < 1000;) {
            size_t most = size - total < bytes.size() ? size_t(size - total) : bytes.size();
            ssize_t got = system_.receive(system_, fd, bytes.data(), most);
            if (got > 0) total += uint64_t(got), idle = 0;
            else if (got == -EAGAIN) settle(), ++idle;
            else break;
        }
        say("drained: %s", total == size ? "all" : "not all");
        settle();
    }

    // Readiness ---------------------------------------------------------------------------------

    static std::string readiness(uint32_t ready) {
        std::string text;
        if (ready & PollEvent::readable) text += 'r';
        if (ready & PollEvent::writable) text += 'w';
        if (ready & PollEvent::hangup) text += 'h';
        return text.empty() ? "-" : text;
    }
    // What the descriptor is ready for: a registration is told of that at once. A poller may claim
    // more than is so, but seldom twice.
    uint32_t ready_for(int fd) {
        uint32_t ready = ~0u;
        for (int look = 0; look < 4; ++look) {
            if (int result = system_.poller_add(system_, poller_, fd, 1)) {
                said("poller_add", result);
                return 0;
            }
            ready &= told();
            system_.poller_remove(system_, poller_, fd);
        }
        return ready;
    }
    void look_at(const char* who, int fd) {
        settle();
        std::string ready = readiness(ready_for(fd));
        say("%s: ready for %s", who, ready.c_str());
    }
    // Edges: what one registration is told as time goes by.
    void watch(int fd) { said("poller_add", system_.poller_add(system_, poller_, fd, 7)); }
    void unwatch(int fd) {
        said("poller_remove", system_.poller_remove(system_, poller_, fd));
        pending_ = 0;
    }
    void expect(const char* after, uint32_t wanted) {
        settle();
        std::string ready = readiness(told() & wanted);
        say("%s: told of %s", after, ready.c_str());
    }
    // No event, but for those that a poller may tell for no reason, now and then.
    void expect_quiet(const char* after) {
        settle();
        int events = 0;
        for (int look = 0; look < 8; ++look) events += told() != 0;
        say("%s: %s", after, events > 3 ? "NOT QUIET" : "quiet");
    }
    uint32_t told() {
        (void)look(0);
        uint32_t ready = pending_;
        pending_ = 0;
        return ready;
    }
    // Waits for what takes the kernel a while.
    void await(int fd, uint32_t wanted) {
        (void)system_.poller_add(system_, poller_, fd, 1);
        int64_t last = system_.now(system_) + failsafe;
        while ((pending_ & wanted) != wanted)
            if (!look(failsafe) && system_.now(system_) >= last) {
                say("NEVER READY");
                break;
            }
        (void)system_.poller_remove(system_, poller_, fd);
        pending_ = 0;
    }

    // Returns when everything under way has arrived, answers and answers to them included.
    //
    // In the simulated world that is a while in which nothing else is done. On loopback the kernel
    // hands each packet to a queue of the processor that sent it, first in, first out; this OS
    // thread stays on one processor, so what a later packet's echo has come back from is behind it.
    void settle() {
        if (simulated_) {
            constexpr int64_t longer_than_loopback = 1'000'000;
            while (look(longer_than_loopback)) {}
            return;
        }
        constexpr int exchanges = 2;
        for (int i = 0; i < 2 * exchanges; ++i) {
            char byte = 'x';
            iovec piece{&byte, 1};
            system_.send(system_, witness_[i % 2], &piece, 1);
            PollEvent event;
            while (system_.receive(system_, witness_[1 - i % 2], &byte, 1) == -EAGAIN)
                if (system_.poller_wait(system_, witness_poller_, &event, 1, failsafe) <= 0) {
                    say("NEVER SETTLED");
                    return;
                }
        }
    }

    static std::string pattern(uint64_t from, size_t size) {
        std::string bytes(size, 0);
        for (size_t i = 0; i < size; ++i) bytes[i] = char('a' + (from + i) % 26);
        return bytes;
    }

  private:
    // Waits for events and adds them to what is to be told; whether there were any.
    bool look(int64_t timeout) {
        PollEvent events[8];
        int count = system_.poller_wait(system_, poller_, events, 8, timeout);
        for (int i = 0; i < count; ++i) pending_ |= events[i].ready;
        return count > 0;
    }
    Poller* open_poller() {
        Poller* poller = nullptr;
        if (system_.poller_open(system_, &poller)) copse::fatal(__FILE__, __LINE__, "no poller");
        return poller;
    }

    // One connection for the whole process, over which settle() makes sure.
    static inline int witness_[2] = {-1, -1};
    static inline Poller* witness_poller_ = nullptr;
    void open_witness() {
        if (witness_poller_) return;
#ifdef __linux__
        cpu_set_t here;
        CPU_ZERO(&here);
        CPU_SET(size_t(sched_getcpu()), &here);
        sched_setaffinity(0, sizeof here, &here);
#endif
        Where where = ipv4(0);
        int door = system_.open_socket(system_, AF_INET, SOCK_STREAM, 0), on = 1;
        witness_[0] = system_.open_socket(system_, AF_INET, SOCK_STREAM, 0);
        system_.set_option(system_, door, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        system_.set_option(system_, witness_[0], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        system_.bind(system_, door, where.raw(), where.size);
        system_.listen(system_, door, 1);
        where = name_of(door);
        system_.connect(system_, witness_[0], where.raw(), where.size);
        witness_poller_ = open_poller();
        system_.poller_add(system_, witness_poller_, door, 0);
        PollEvent event;
        while ((witness_[1] = system_.accept(system_, door, nullptr, nullptr)) == -EAGAIN)
            (void)system_.poller_wait(system_, witness_poller_, &event, 1, failsafe);
        system_.poller_remove(system_, witness_poller_, door);
        system_.close(system_, door);
        for (int end : witness_) system_.poller_add(system_, witness_poller_, end, 0);
    }

    const System& system_;
    bool simulated_;
    std::string log_;
    Poller* poller_;
    uint32_t pending_ = 0;  // what the poller has told and no program has heard
    std::vector<int> open_;
    std::vector<std::string> paths_, ports_, names_;
};

struct Program {
    std::string name;
    std::function<void(Lab&)> run;
};
using Programs = std::vector<Program>;

inline std::string run_for_real(const Program& program) {
    Lab lab{copse::production_system, false};
    program.run(lab);
    return lab.log();
}

inline std::string run_simulated(const Program& program, uint64_t seed) {
    std::string log;
    copse::sim::Outcome outcome = copse::sim::run(seed, [&](copse::sim::World& world) {
        world.host("host").main([&] {
            Lab lab{copse::system_to_use(), true};
            program.run(lab);
            log = lab.log();
        });
    });
    if (!outcome.ok) log += std::string("the world failed: ") + outcome.failure + "\n";
    return log;
}

// Runs each on the kernel, and in the simulated world under several seeds: chance may not show.
// The kernel's ports are everybody's, so a program may find the one it wants taken by somebody
// else: what differs is what differs each time.
inline void compare(const Programs& programs) {
#ifndef __linux__
    test::skip("the simulated kernel is modelled after Linux");
#endif
    if (test::emulated()) test::skip("an emulator's sockets are its own");
    constexpr uint64_t seeds = 5;
    constexpr int attempts = 3;
    for (const Program& each : programs) {
        std::string real = run_for_real(each), usual = run_simulated(each, 1);
        for (int i = 1; i < attempts && real != usual; ++i) real = run_for_real(each);
        for (uint64_t seed = 1; seed <= seeds; ++seed) {
            std::string simulated = seed == 1 ? usual : run_simulated(each, seed);
            if (simulated == real) continue;
            test::fail(__FILE__, __LINE__, each.name.c_str());
            fprintf(stderr, "%s\n--- the kernel:\n%s--- the simulated world, seed %llu:\n%s---\n",
                    each.name.c_str(), real.c_str(), (unsigned long long)seed, simulated.c_str());
            break;
        }
    }
}

}  // namespace parity

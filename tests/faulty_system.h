// FaultySystem: the machine's table with a will of its own. It counts what it is asked, fails what
// it is told to fail, moves few bytes at a time, and may keep a clock that only waiting advances.
//
// It stays within the table's contract: a call that moved fewer bytes than it could have, or that
// was made to answer EAGAIN, is followed by one event of that direction, as if the rest came later.
//
// World is one for the length of a test: the loop is made on it, taken down at its end, and then
// every descriptor, allocation and mapping must have been given back.
#pragma once

#include "runtime/system.h"

#include "inspection.h"
#include "machine.h"
#include "test.h"

#include <copse/copse.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <unistd.h>
#include <vector>

namespace test {

// What of the table may fail or is counted.
enum class Call {
    allocate, map, poller_open, poller_add, poller_remove, poller_wait, open_socket, open_pair,
    adopt, close, bind, listen, accept, connect, shutdown, get_peer_name, get_socket_name,
    get_option, set_option, receive, send, unlink,
};
inline constexpr int calls = int(Call::unlink) + 1;
inline const char* const call_names[calls] = {
    "allocate", "map", "poller_open", "poller_add", "poller_remove", "poller_wait", "open_socket",
    "open_pair", "adopt", "close", "bind", "listen", "accept", "connect", "shutdown",
    "get_peer_name", "get_socket_name", "get_option", "set_option", "receive", "send", "unlink",
};

// Open descriptors of this process.
inline int open_descriptors() {
    int count = 0;
    if (DIR* directory = opendir("/proc/self/fd")) {
        while (readdir(directory)) ++count;
        closedir(directory);
        return count - 3;  // ".", ".." and the directory itself
    }
    for (int fd = 0; fd < 4096; ++fd)
        if (fcntl(fd, F_GETFD) >= 0) ++count;
    return count;
}

class FaultySystem : public copse::System {
  public:
    FaultySystem() : System{copse::production_system} {
        now = [](const System& s) -> int64_t {
            return of(s).virtual_time ? of(s).time : real().now(real());
        };
        allocate = [](const System& s, size_t size) -> void* {
            if (of(s).fails(Call::allocate, -1)) return nullptr;
            void* memory = real().allocate(s, size);
            if (memory) of(s).took(size);
            return memory;
        };
        release = [](const System& s, void* memory, size_t size) {
            of(s).gave(size);
            real().release(s, memory, size);
        };
        map = [](const System& s, size_t size) -> void* {
            if (of(s).fails(Call::map, -1)) return nullptr;
            void* memory = real().map(s, size);
            if (memory) of(s).mapped += size;
            return memory;
        };
        unmap = [](const System& s, void* memory, size_t size) {
            of(s).mapped -= size;
            real().unmap(s, memory, size);
        };
        poller_open = [](const System& s, copse::Poller** out) {
            if (int error = of(s).fails(Call::poller_open, -1)) return -error;
            return real().poller_open(s, out);
        };
        poller_add = [](const System& s, copse::Poller* poller, int fd, uint64_t token) {
            if (int error = of(s).fails(Call::poller_add, fd)) return -error;
            of(s).poller = poller;
            int result = real().poller_add(s, poller, fd, token);
            if (result == 0) of(s).watched[fd] = {token};
            return result;
        };
        poller_remove = [](const System& s, copse::Poller* poller, int fd) {
            ++of(s).count[int(Call::poller_remove)];
            of(s).watched.erase(fd);
            of(s).mutes.erase(fd);
            return real().poller_remove(s, poller, fd);
        };
        // A level-triggered poller is asked again only when there is room.
        if (poller_rearm) {
            poller_rearm = [](const System& s, copse::Poller* poller, int fd, uint32_t readiness) {
                if (of(s).dammed && (readiness & copse::PollEvent::writable)) {
                    of(s).watched[fd].held_back = true;
                    readiness &= ~uint32_t(copse::PollEvent::writable);
                }
                if (readiness) real().poller_rearm(s, poller, fd, readiness);
            };
        }
        poller_wait = wait;
        open_socket = [](const System& s, int family, int type, int protocol) {
            if (int error = of(s).fails(Call::open_socket, -1)) return -error;
            return real().open_socket(s, family, type, protocol);
        };
        open_pair = [](const System& s, int family, int type, int out[2]) {
            if (int error = of(s).fails(Call::open_pair, -1)) return -error;
            return real().open_pair(s, family, type, out);
        };
        adopt = [](const System& s, int fd) {
            if (int error = of(s).fails(Call::adopt, fd)) return -error;
            return real().adopt(s, fd);
        };
        close = [](const System& s, int fd) {
            // Whatever it answers, the descriptor is gone.
            int result = real().close(s, fd);
            int error = of(s).fails(Call::close, fd);
            return error ? -error : result;
        };
        bind = [](const System& s, int fd, const sockaddr* to, socklen_t size) {
            if (int error = of(s).fails(Call::bind, fd)) return -error;
            return real().bind(s, fd, to, size);
        };
        listen = [](const System& s, int fd, int backlog) {
            if (int error = of(s).fails(Call::listen, fd)) return -error;
            return real().listen(s, fd, backlog);
        };
        accept = [](const System& s, int fd, sockaddr* from, socklen_t* size) {
            if (int error = of(s).fails(Call::accept, fd)) return -error;
            return real().accept(s, fd, from, size);
        };
        connect = [](const System& s, int fd, const sockaddr* to, socklen_t size) {
            if (int error = of(s).fails(Call::connect, fd)) return -error;
            return real().connect(s, fd, to, size);
        };
        shutdown = [](const System& s, int fd, int how) {
            if (int error = of(s).fails(Call::shutdown, fd)) return -error;
            return real().shutdown(s, fd, how);
        };
        get_peer_name = [](const System& s, int fd, sockaddr* out, socklen_t* size) {
            if (int error = of(s).fails(Call::get_peer_name, fd)) return -error;
            return real().get_peer_name(s, fd, out, size);
        };
        get_socket_name = [](const System& s, int fd, sockaddr* out, socklen_t* size) {
            if (int error = of(s).fails(Call::get_socket_name, fd)) return -error;
            return real().get_socket_name(s, fd, out, size);
        };
        get_option = [](const System& s, int fd, int level, int name, void* out, socklen_t* size) {
            if (int error = of(s).fails(Call::get_option, fd)) return -error;
            return real().get_option(s, fd, level, name, out, size);
        };
        set_option = [](const System& s, int fd, int level, int name, const void* value,
                        socklen_t size) {
            if (int error = of(s).fails(Call::set_option, fd)) return -error;
            return real().set_option(s, fd, level, name, value, size);
        };
        receive = receive_some;
        send = send_some;
        unlink = [](const System& s, const char* path) {
            if (int error = of(s).fails(Call::unlink, -1)) return -error;
            return real().unlink(s, path);
        };
    }

    // Asked before each call: the errno it is to fail with, or 0.
    std::function<int(Call, int fd)> fault;
    // How many of `size` bytes a call may move; 0: it answers EAGAIN.
    std::function<size_t(int fd, size_t size)> receives, sends;
    // Until opened, no kernel takes a byte.
    void dam() { dammed = true; }
    void open_dam() {
        dammed = false;
        for (auto& [fd, watch] : watched) {
            watch.owed |= copse::PollEvent::writable;
            if (watch.held_back) real().poller_rearm(*this, poller, fd, copse::PollEvent::writable);
            watch.held_back = false;
        }
    }
    // Where the order of things is open, it is chosen by chance.
    void choose_by(uint64_t seed) {
        chance = seed * 0x9e3779b97f4a7c15u + 1;
        choose = [](const System& s, copse::Choice, uint32_t n) { return of(s).one_of(n); };
        choose_thread = [](const System& s, const copse::Candidates& ready) {
            return of(s).one_of(ready.count);
        };
    }
    // What the poller will say besides, and by what name it knows a descriptor.
    void inject(const copse::PollEvent& event) { injected.push_back(event); }
    uint64_t token_of(int fd) { return watched[fd].token; }
    // The poller says nothing of a descriptor until it may speak again.
    void mute(int fd) { mutes.insert(fd); }
    void unmute(int fd) { mutes.erase(fd); }
    // What each send took: descriptor, pieces, bytes or -errno.
    std::function<void(int fd, int pieces, ssize_t took)> sent;
    // Before each wait of the loop.
    std::function<void(int64_t timeout)> waits;

    bool virtual_time = false;
    static constexpr int64_t epoch = 1'000'000'000;
    int64_t time = epoch;
    copse::Duration elapsed() const { return copse::Duration::nanoseconds(time - epoch); }
    // How long the kernel may really take to speak before the virtual clock goes on.
    int64_t grace = 0;

    uint64_t count[calls] = {};
    uint64_t of_call(Call call) const { return count[int(call)]; }
    uint64_t sleeps = 0;  // waits that were not mere looks

    size_t held = 0, most_held = 0;  // bytes allocated
    size_t pieces_held = 0;          // allocations not given back
    size_t mapped = 0;

    // An event of these directions is due for the descriptor.
    void owe(int fd, uint32_t ready) {
        auto it = watched.find(fd);
        if (it != watched.end()) it->second.owed |= ready;
    }

  private:
    static const System& real() { return copse::production_system; }
    static FaultySystem& of(const System& s) {
        return const_cast<FaultySystem&>(static_cast<const FaultySystem&>(s));
    }

    uint32_t one_of(uint32_t n) {
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        return uint32_t((chance >> 16) % n);
    }
    int fails(Call call, int fd) {
        ++count[int(call)];
        int error = fault ? fault(call, fd) : 0;
        if (error == EAGAIN && call == Call::receive) owe(fd, copse::PollEvent::readable);
        if (error == EAGAIN && call == Call::accept) owe(fd, copse::PollEvent::readable);
        if (error == EAGAIN && call == Call::send) owe(fd, copse::PollEvent::writable);
        return error;
    }
    void took(size_t size) {
        held += size;
        ++pieces_held;
        if (held > most_held) most_held = held;
    }
    void gave(size_t size) {
        held -= size;
        --pieces_held;
    }

    static ssize_t receive_some(const System& s, int fd, void* out, size_t size) {
        FaultySystem& self = of(s);
        if (int error = self.fails(Call::receive, fd)) return -error;
        if (!self.receives) return real().receive(s, fd, out, size);
        size_t most = self.receives(fd, size);
        if (most >= size) return real().receive(s, fd, out, size);
        self.owe(fd, copse::PollEvent::readable);
        return most ? real().receive(s, fd, out, most) : -EAGAIN;
    }

    static ssize_t send_some(const System& s, int fd, const iovec* pieces, int number) {
        FaultySystem& self = of(s);
        ssize_t took = 0;
        if (int error = self.fails(Call::send, fd)) took = -error;
        else took = self.send_limited(fd, pieces, number);
        if (self.sent) self.sent(fd, number, took);
        return took;
    }
    ssize_t send_limited(int fd, const iovec* pieces, int number) {
        size_t size = 0;
        for (int i = 0; i < number; ++i) size += pieces[i].iov_len;
        if (dammed) return -EAGAIN;
        size_t most = sends ? sends(fd, size) : size;
        if (dammed) return -EAGAIN;
        if (most >= size) return real().send(*this, fd, pieces, number);
        owe(fd, copse::PollEvent::writable);
        if (most == 0) return -EAGAIN;
        std::string some;
        for (int i = 0; i < number && some.size() < most; ++i) {
            size_t room = most - some.size();
            some.append(static_cast<const char*>(pieces[i].iov_base),
                        pieces[i].iov_len < room ? pieces[i].iov_len : room);
        }
        iovec one{some.data(), some.size()};
        return real().send(*this, fd, &one, 1);
    }

    static int wait(const System& s, copse::Poller* poller, copse::PollEvent* events, int capacity,
                    int64_t timeout) {
        FaultySystem& self = of(s);
        if (int error = self.fails(Call::poller_wait, -1)) return -error;
        if (self.waits) self.waits(timeout);
        if (timeout != 0) ++self.sleeps;
        int told = 0;
        for (const copse::PollEvent& event : self.injected) events[told++] = event;
        self.injected.clear();
        for (auto& [fd, watch] : self.watched) {
            if (!watch.owed || told == capacity || self.mutes.count(fd)) continue;
            events[told++] = {watch.token, watch.owed};
            watch.owed = 0;
        }
        if (told) timeout = 0;
        if (told == capacity) return told;
        int64_t patience = timeout;
        if (self.virtual_time && timeout > 0)
            patience = self.grace < timeout ? self.grace : timeout;
        // A test that waits for ever waits for something that will not come.
        constexpr int64_t longest = 20'000'000'000;
        if (timeout < 0) patience = longest;
        int more = real().poller_wait(s, poller, events + told, capacity - told, patience);
        if (more == 0 && timeout < 0 && ++self.waited_in_vain > 1) {
            fprintf(stderr, "nothing will wake this loop\n");
            copse::dump(2);
            abort();
        }
        if (more > 0 && !self.mutes.empty()) more = self.silence(events + told, more);
        if (more > 0) self.waited_in_vain = 0;
        if (more == 0 && self.virtual_time && timeout > 0) self.time += timeout;
        return more < 0 ? more : told + more;
    }

    // Takes out what is muted, to be told later.
    int silence(copse::PollEvent* events, int count) {
        int left = 0;
        for (int i = 0; i < count; ++i) {
            bool muted = false;
            for (auto& [fd, watch] : watched) {
                if (watch.token != events[i].token || !mutes.count(fd)) continue;
                watch.owed |= events[i].ready;
                muted = true;
            }
            if (!muted) events[left++] = events[i];
        }
        return left;
    }

    struct Watched {
        uint64_t token = ~uint64_t{0};
        uint32_t owed = 0;
        bool held_back = false;  // its next writability is wanted
    };
    std::map<int, Watched> watched;
    std::set<int> mutes;
    std::vector<copse::PollEvent> injected;
    copse::Poller* poller = nullptr;
    int waited_in_vain = 0;
    bool dammed = false;
    uint64_t chance = 1;
};

struct World : FaultySystem {
    enum Clock { real_time, virtual_clock };

    explicit World(Clock clock = virtual_clock) {
        virtual_time = clock == virtual_clock;
        descriptors_before = open_descriptors();
        copse::use_system(this);
        copse::setspin(copse::Duration{});
        copse::seterrorhandler(report, this, true);
    }
    ~World() {
        fault = nullptr;
        copse::Inspection::check();
        CHECK_EQ(copse::destroy_loop(), copse::Error::none);
        copse::use_system(nullptr);
        CHECK_EQ(open_descriptors(), descriptors_before);
        CHECK_EQ(held, 0u);
        CHECK_EQ(pieces_held, 0u);
        CHECK_EQ(mapped, 0u);
    }
    World(const World&) = delete;
    World& operator=(const World&) = delete;

    // What the error handler was told.
    int reports = 0;
    std::string last_report;

    // Runs fn as a thread, and the loop until nothing is left to do.
    template <class F> copse::Error run(F&& fn) { return copse::loop(std::forward<F>(fn)); }

    // Nobody is parked, nothing is unsent, and no timer is left.
    static bool quiet() {
        copse::Status s = copse::status();
        return s.waiting == 0 && s.sleeping == 0 && s.parked == 0 && s.buffered == 0;
    }

  private:
    static void report(copse::Thread, const char* what, void* self) {
        ++static_cast<World*>(self)->reports;
        static_cast<World*>(self)->last_report = what;
    }
    int descriptors_before;
};

// xorshift: the same numbers everywhere.
class Random {
  public:
    explicit Random(uint64_t seed) : state_{seed * 0x9e3779b97f4a7c15u + 1} {}
    uint64_t next() {
        state_ ^= state_ << 13;
        state_ ^= state_ >> 7;
        state_ ^= state_ << 17;
        return state_;
    }
    size_t below(size_t n) { return size_t((next() >> 16) % n); }
    size_t between(size_t low, size_t high) { return low + below(high - low + 1); }

  private:
    uint64_t state_;
};

}  // namespace test

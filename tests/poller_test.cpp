// Poller: the contract of runtime/system.h, kept by whichever backend is linked.
#include "runtime/system.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <initializer_list>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#if __has_include(<linux/seccomp.h>)
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

using namespace copse;

namespace {

const System& sys = production_system;
constexpr uint32_t readable = PollEvent::readable, writable = PollEvent::writable,
                   hangup = PollEvent::hangup;
constexpr int64_t ms = 1'000'000;
constexpr int64_t settled = 20 * ms;  // what is going to happen on loopback has happened by then

// A number that is no descriptor's.
int closed_number() {
    int fd = dup(2);
    close(fd);
    return fd;
}

struct OpenPoller {
    Poller* poller = nullptr;

    OpenPoller() { REQUIRE(sys.poller_open(sys, &poller) == 0); }
    ~OpenPoller() { sys.poller_close(sys, poller); }
    operator Poller*() const { return poller; }
};

struct Pair {
    int ours, theirs;
};

Pair local_pair(int type = SOCK_STREAM) {
    int fds[2];
    REQUIRE(sys.open_pair(sys, AF_UNIX, type, fds) == 0);
    return {fds[0], fds[1]};
}

Pair tcp_pair() {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* at = reinterpret_cast<sockaddr*>(&address);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    REQUIRE(listener >= 0 && sys.bind(sys, listener, at, size) == 0);
    REQUIRE(sys.listen(sys, listener, 1) == 0);
    REQUIRE(sys.get_socket_name(sys, listener, at, &size) == 0);
    int theirs = socket(AF_INET, SOCK_STREAM, 0);
    REQUIRE(theirs >= 0 && connect(theirs, at, size) == 0);
    int ours = sys.accept(sys, listener, nullptr, nullptr);
    REQUIRE(ours >= 0 && sys.adopt(sys, theirs) == 0);
    sys.close(sys, listener);
    return {ours, theirs};
}

void add(Poller* poller, int fd, uint64_t token) {
    CHECK_EQ(sys.poller_add(sys, poller, fd, token), 0);
}

// What the reader or writer of a descriptor says after EAGAIN.
void not_ready(Poller* poller, int fd, uint32_t which) {
    if (sys.poller_rearm) sys.poller_rearm(sys, poller, fd, which);
}

// All that is said of a token until nothing has been said of anything for a while; how often, too.
struct Heard {
    uint32_t ready = 0;
    int times = 0;
    int of_others = 0;
};

Heard listen_for(Poller* poller, uint64_t token, int64_t quiet = settled) {
    Heard heard;
    PollEvent events[256];
    for (int waits = 0; waits < 100; ++waits) {
        int count = sys.poller_wait(sys, poller, events, 256, quiet);
        CHECK(count >= 0);
        if (count <= 0) return heard;
        for (int i = 0; i < count; ++i) {
            if (events[i].token != token) {
                ++heard.of_others;
                continue;
            }
            heard.ready |= events[i].ready;
            ++heard.times;
        }
    }
    CHECK(!"the poller falls silent");
    return heard;
}

ssize_t put(int fd, size_t size) {
    static char bytes[1 << 16];
    iovec piece{bytes, size};
    return sys.send(sys, fd, &piece, 1);
}

ssize_t take(int fd) {
    static char bytes[1 << 16];
    return sys.receive(sys, fd, bytes, sizeof bytes);
}

// Reads until there is nothing more; what ended it: 0 or -errno.
ssize_t take_all(int fd, size_t& total) {
    for (;;) {
        ssize_t got = take(fd);
        if (got <= 0) return got;
        total += static_cast<size_t>(got);
    }
}

// Sends until the peer's buffers, too, have taken all they will.
void fill(int fd) {
    for (int refused = 0; refused < 20;) {
        if (put(fd, 1 << 16) > 0) {
            refused = 0;
        } else {
            ++refused;
            usleep(500);
        }
    }
}

void reset_by_peer(int fd) {
    linger now{1, 0};
    CHECK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now) == 0);
    sys.close(sys, fd);
}

}  // namespace

// Edges -----------------------------------------------------------------------------------------

TEST(a_fresh_socket_is_writable_and_says_so_once) {
    OpenPoller poller;
    Pair pair = local_pair();
    add(poller, pair.ours, 7);
    Heard heard = listen_for(poller, 7);
    CHECK_EQ(heard.ready, writable);
    CHECK_EQ(heard.times, 1);
    CHECK_EQ(heard.of_others, 0);
}

TEST(arrived_bytes_are_told_of_once) {
    OpenPoller poller;
    Pair pair = tcp_pair();
    add(poller, pair.ours, 7);
    listen_for(poller, 7);
    CHECK_EQ(put(pair.theirs, 100), 100);
    Heard heard = listen_for(poller, 7);
    CHECK(heard.ready & readable);
    CHECK(!(heard.ready & hangup));
    CHECK(heard.times == 1);
    CHECK_EQ(listen_for(poller, 7).times, 0);
}

TEST(bytes_after_a_drained_socket_are_told_of_again) {
    OpenPoller poller;
    Pair pair = tcp_pair();
    add(poller, pair.ours, 7);
    listen_for(poller, 7);
    for (int round = 0; round < 20; ++round) {
        CHECK_EQ(put(pair.theirs, 10), 10);
        CHECK(listen_for(poller, 7, ms).ready & readable);
        CHECK_EQ(take(pair.ours), 10);
        CHECK_EQ(take(pair.ours), -EAGAIN);
        not_ready(poller, pair.ours, readable);
    }
}

TEST(bytes_that_come_before_the_rearm_are_not_missed) {
    OpenPoller poller;
    Pair pair = tcp_pair();
    add(poller, pair.ours, 7);
    put(pair.theirs, 10);
    CHECK(listen_for(poller, 7).ready & readable);
    CHECK_EQ(take(pair.ours), 10);
    CHECK_EQ(take(pair.ours), -EAGAIN);
    put(pair.theirs, 10);
    usleep(2000);
    not_ready(poller, pair.ours, readable);
    CHECK(listen_for(poller, 7).ready & readable);
}

TEST(a_full_socket_is_writable_again_when_it_is_read) {
    OpenPoller poller;
    for (bool local : {true, false}) {
        Pair pair = local ? local_pair() : tcp_pair();
        add(poller, pair.ours, 7);
        fill(pair.ours);
        listen_for(poller, 7);
        // A TCP peer's kernel may find room for more at any time, unread as it is.
        if (local) CHECK_EQ(put(pair.ours, 1), -EAGAIN);
        else fill(pair.ours);
        not_ready(poller, pair.ours, writable);
        bool again = listen_for(poller, 7).ready & writable;
        CHECK(!(local && again));
        size_t total = 0;
        for (int i = 0; i < 50; ++i) {
            take_all(pair.theirs, total);
            usleep(1000);
        }
        CHECK(again || (listen_for(poller, 7).ready & writable));
        sys.poller_remove(sys, poller, pair.ours);
    }
}

TEST(a_listener_tells_of_a_connection) {
    OpenPoller poller;
    int listener = sys.open_socket(sys, AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* at = reinterpret_cast<sockaddr*>(&address);
    REQUIRE(sys.bind(sys, listener, at, size) == 0 && sys.listen(sys, listener, 8) == 0);
    REQUIRE(sys.get_socket_name(sys, listener, at, &size) == 0);
    add(poller, listener, 7);
    listen_for(poller, 7);
    for (int round = 0; round < 3; ++round) {
        int client = socket(AF_INET, SOCK_STREAM, 0);
        REQUIRE(connect(client, at, size) == 0);
        CHECK(listen_for(poller, 7).ready & readable);
        int server = sys.accept(sys, listener, nullptr, nullptr);
        CHECK(server >= 0);
        CHECK_EQ(sys.accept(sys, listener, nullptr, nullptr), -EAGAIN);
        not_ready(poller, listener, readable);
        close(client);
        close(server);
    }
}

TEST(a_connection_that_is_made_or_refused_becomes_writable) {
    int listener = sys.open_socket(sys, AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* at = reinterpret_cast<sockaddr*>(&address);
    REQUIRE(sys.bind(sys, listener, at, size) == 0);
    REQUIRE(sys.get_socket_name(sys, listener, at, &size) == 0);
    for (bool refused : {true, false}) {
        if (!refused) REQUIRE(sys.listen(sys, listener, 8) == 0);
        OpenPoller poller;
        int client = sys.open_socket(sys, AF_INET, SOCK_STREAM, 0);
        add(poller, client, 7);
        listen_for(poller, 7);  // some kernels call a socket that was never connected hung up
        not_ready(poller, client, readable | writable);
        int result = sys.connect(sys, client, at, size);
        CHECK(result == 0 || result == -EINPROGRESS || result == -ECONNREFUSED);
        CHECK(listen_for(poller, 7).ready & writable);
        int error = -1;
        socklen_t error_size = sizeof error;
        CHECK_EQ(sys.get_option(sys, client, SOL_SOCKET, SO_ERROR, &error, &error_size), 0);
        if (result == -EINPROGRESS) CHECK_EQ(error != 0, refused);
        CHECK(refused || put(client, 1) == 1);
    }
}

// Ends ------------------------------------------------------------------------------------------

TEST(unread_bytes_are_had_before_the_end) {
    OpenPoller poller;
    Pair pair = tcp_pair();
    add(poller, pair.ours, 7);
    listen_for(poller, 7);
    put(pair.theirs, 1000);
    sys.shutdown(sys, pair.theirs, SHUT_WR);
    Heard heard = listen_for(poller, 7);
    CHECK((heard.ready & (readable | hangup)) == (readable | hangup));
    size_t total = 0;
    CHECK_EQ(take_all(pair.ours, total), 0);
    CHECK_EQ(total, 1000u);
}

// A peer ends in every way while we are in every state: the end is heard, and then there is quiet.
TEST(every_kind_of_end_is_heard_and_no_end_is_a_storm) {
    enum End { shutdown_only, fin, rst, fin_then_rst };
    for (End end : {shutdown_only, fin, rst, fin_then_rst})
        for (size_t unread : {size_t{0}, size_t{1}, size_t{1} << 16})
            for (uint32_t waits : {0u, readable, writable, readable | writable}) {
                OpenPoller poller;
                Pair pair = tcp_pair();
                add(poller, pair.ours, 7);
                listen_for(poller, 7, ms);
                not_ready(poller, pair.ours, readable);
                if (waits & writable) {
                    fill(pair.ours);
                    listen_for(poller, 7, ms);
                    not_ready(poller, pair.ours, writable);
                }
                size_t sent = 0;
                while (sent < unread) {
                    ssize_t more = put(pair.theirs, unread - sent);
                    REQUIRE(more > 0);
                    sent += static_cast<size_t>(more);
                }
                if (end == shutdown_only || end == fin_then_rst)
                    sys.shutdown(sys, pair.theirs, SHUT_WR);
                if (end == fin) sys.close(sys, pair.theirs);
                if (end == rst || end == fin_then_rst) reset_by_peer(pair.theirs);
                Heard heard = listen_for(poller, 7, 5 * ms);
                CHECK(heard.ready & readable);
                CHECK(heard.ready & hangup);
                CHECK(heard.times <= 8);
                size_t total = 0;
                ssize_t ended = take_all(pair.ours, total);
                CHECK(ended == 0 || ended == -ECONNRESET || ended == -EPIPE);
                if (end == shutdown_only) CHECK_EQ(total, unread);
                CHECK(listen_for(poller, 7, 5 * ms).times <= 2);
                if (end != fin_then_rst && end != rst) sys.close(sys, pair.theirs);
                sys.poller_remove(sys, poller, pair.ours);
                sys.close(sys, pair.ours);
            }
}

TEST(a_peer_that_hung_up_does_not_keep_the_wait_from_waiting) {
    OpenPoller poller;
    Pair pair = local_pair();
    add(poller, pair.ours, 7);
    sys.close(sys, pair.theirs);
    listen_for(poller, 7);
    PollEvent events[8];
    int64_t before = sys.now(sys);
    CHECK_EQ(sys.poller_wait(sys, poller, events, 8, 30 * ms), 0);
    CHECK(sys.now(sys) - before >= 30 * ms);
}

TEST(pipes_are_watched_at_both_ends) {
    OpenPoller poller;
    int ends[2];
    REQUIRE(pipe(ends) == 0 && sys.adopt(sys, ends[0]) == 0 && sys.adopt(sys, ends[1]) == 0);
    add(poller, ends[0], 1);
    add(poller, ends[1], 2);
    CHECK(listen_for(poller, 2).ready & writable);
    CHECK_EQ(put(ends[1], 5), 5);
    CHECK(listen_for(poller, 1).ready & readable);
    CHECK_EQ(take(ends[0]), 5);
    CHECK_EQ(take(ends[0]), -EAGAIN);
    not_ready(poller, ends[0], readable);
    sys.poller_remove(sys, poller, ends[1]);
    sys.close(sys, ends[1]);
    Heard heard = listen_for(poller, 1);
    CHECK((heard.ready & (readable | hangup)) == (readable | hangup));
    CHECK_EQ(take(ends[0]), 0);
}

// Identity --------------------------------------------------------------------------------------

TEST(a_removed_descriptor_is_not_heard_of) {
    OpenPoller poller;
    Pair pair = local_pair();
    add(poller, pair.ours, 7);
    put(pair.theirs, 1);
    CHECK_EQ(sys.poller_remove(sys, poller, pair.ours), 0);
    Heard heard = listen_for(poller, 7);
    CHECK_EQ(heard.times + heard.of_others, 0);
    CHECK_EQ(sys.poller_remove(sys, poller, pair.ours), -ENOENT);
}

TEST(a_removed_descriptor_cuts_no_wait_short) {
    OpenPoller poller;
    Pair pair = local_pair();
    add(poller, pair.ours, 7);
    fill(pair.ours);
    listen_for(poller, 7);
    CHECK_EQ(sys.poller_remove(sys, poller, pair.ours), 0);
    size_t total = 0;
    take_all(pair.theirs, total);  // writable again
    put(pair.theirs, 1);           // and readable
    PollEvent events[8];
    int64_t before = sys.now(sys);
    CHECK_EQ(sys.poller_wait(sys, poller, events, 8, settled), 0);
    CHECK(sys.now(sys) - before >= settled);
}

TEST(a_descriptor_number_used_again_has_only_its_new_token) {
    OpenPoller poller;
    for (uint64_t round = 0; round < 50; ++round) {
        Pair old = local_pair(), fresh = local_pair();
        add(poller, old.ours, round);
        put(old.theirs, 1);
        CHECK_EQ(sys.poller_remove(sys, poller, old.ours), 0);
        sys.close(sys, old.ours);
        REQUIRE(dup2(fresh.ours, old.ours) == old.ours);
        add(poller, old.ours, round + 1000);
        put(fresh.theirs, 1);
        Heard heard = listen_for(poller, round + 1000, ms);
        CHECK(heard.ready & readable);
        CHECK_EQ(heard.of_others, 0);
        CHECK_EQ(sys.poller_remove(sys, poller, old.ours), 0);
        for (int fd : {old.ours, old.theirs, fresh.ours, fresh.theirs}) sys.close(sys, fd);
    }
}

TEST(a_dup_that_outlives_its_removed_original_is_silent) {
    OpenPoller poller;
    Pair pair = local_pair();
    int copy = dup(pair.ours);
    add(poller, pair.ours, 7);
    listen_for(poller, 7);
    CHECK_EQ(sys.poller_remove(sys, poller, pair.ours), 0);
    sys.close(sys, pair.ours);
    put(pair.theirs, 100);
    PollEvent events[8];
    int heard = 0;
    for (int i = 0; i < 1000; ++i) heard += sys.poller_wait(sys, poller, events, 8, 0);
    CHECK_EQ(heard, 0);
    close(copy);
}

TEST(descriptor_zero_is_one_like_any_other) {
    OpenPoller poller;
    Pair pair = local_pair();
    REQUIRE(dup2(pair.ours, 0) == 0);
    sys.close(sys, pair.ours);
    add(poller, 0, 7);
    listen_for(poller, 7);
    put(pair.theirs, 1);
    Heard heard = listen_for(poller, 7);
    CHECK(heard.ready & readable);
    CHECK_EQ(heard.times, 1);
    CHECK_EQ(listen_for(poller, 7).times, 0);
    CHECK_EQ(sys.poller_remove(sys, poller, 0), 0);
    put(pair.theirs, 1);
    CHECK_EQ(listen_for(poller, 7).times, 0);
}

TEST(tokens_are_sixty_four_bits_wide) {
    OpenPoller poller;
    Pair pair = local_pair();
    const uint64_t token = 0xfedcba9876543210u;
    add(poller, pair.ours, token);
    CHECK_EQ(listen_for(poller, token).times, 1);
}

TEST(files_and_directories_are_refused) {
    OpenPoller poller;
    int file = fileno(tmpfile()), directory = open("/", O_RDONLY);
    CHECK_EQ(sys.poller_add(sys, poller, file, 1), -EPERM);
    CHECK_EQ(sys.poller_add(sys, poller, directory, 2), -EPERM);
    Heard heard = listen_for(poller, 1);
    CHECK_EQ(heard.times + heard.of_others, 0);
}

TEST(a_descriptor_that_is_not_open_is_refused) {
    OpenPoller poller;
    const int closed = closed_number();
    CHECK_EQ(sys.poller_add(sys, poller, closed, 1), -EBADF);
    CHECK_EQ(sys.poller_add(sys, poller, -1, 1), -EBADF);
    CHECK(sys.poller_remove(sys, poller, closed) < 0);
    CHECK(sys.poller_remove(sys, poller, -1) < 0);
}

// Many ------------------------------------------------------------------------------------------

TEST(more_descriptors_than_fit_one_call_are_all_told_of) {
    constexpr int many = 300;
    rlimit limit{};
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max < 4096 ? limit.rlim_max : 4096;
    REQUIRE(limit.rlim_cur > 2 * many + 64 && setrlimit(RLIMIT_NOFILE, &limit) == 0);
    OpenPoller poller;
    static Pair pairs[many];
    for (int i = 0; i < many; ++i) {
        pairs[i] = local_pair();
        add(poller, pairs[i].ours, uint64_t(i));
        put(pairs[i].theirs, 1);
    }
    int told[many] = {};
    PollEvent events[256];
    for (int waits = 0; waits < 20; ++waits) {
        int count = sys.poller_wait(sys, poller, events, 256, ms);
        CHECK(count >= 0 && count <= 256);
        for (int i = 0; i < count; ++i) {
            REQUIRE(events[i].token < many);
            if (events[i].ready & readable) ++told[events[i].token];
        }
    }
    for (int each : told) CHECK_EQ(each, 1);
}

TEST(a_small_capacity_starves_nobody) {
    constexpr int many = 40;
    OpenPoller poller;
    Pair pairs[many];
    for (int i = 0; i < many; ++i) {
        pairs[i] = local_pair();
        add(poller, pairs[i].ours, uint64_t(i));
        put(pairs[i].theirs, 1);
    }
    int told[many] = {};
    PollEvent events[3];
    for (int waits = 0; waits < 3 * many; ++waits) {
        int count = sys.poller_wait(sys, poller, events, 3, 0);
        CHECK(count <= 3);
        for (int i = 0; i < count; ++i) {
            const auto which = events[i].token;
            if (!(events[i].ready & readable)) continue;
            ++told[which];
            // Always ready again, at once.
            take(pairs[which].ours);
            not_ready(poller, pairs[which].ours, readable);
            put(pairs[which].theirs, 1);
        }
    }
    for (int each : told) CHECK(each > 0);
}

// Against a model: who is registered and was written to is heard of, and nobody else is.
TEST(any_order_of_adding_and_removing_is_kept_track_of) {
    constexpr int many = 48;
    OpenPoller poller;
    Pair pairs[many];
    uint64_t tokens[many] = {}, next_token = 1;
    for (Pair& each : pairs) each = local_pair(SOCK_DGRAM);
    uint32_t state = 12345;
    auto chance = [&](uint32_t n) { return (state = state * 1664525u + 1013904223u) / 65536 % n; };
    PollEvent events[256];
    for (int round = 0; round < 20'000; ++round) {
        const auto i = chance(many);
        if (tokens[i]) {
            CHECK_EQ(sys.poller_remove(sys, poller, pairs[i].ours), 0);
            tokens[i] = 0;
        } else {
            tokens[i] = next_token++;
            add(poller, pairs[i].ours, tokens[i]);
        }
        if (round % 16) continue;
        const auto j = chance(many);
        while (sys.poller_wait(sys, poller, events, 256, 0) > 0) {}
        not_ready(poller, pairs[j].ours, readable | writable);
        CHECK_EQ(put(pairs[j].theirs, 1), 1);
        bool heard = false;
        for (int count; (count = sys.poller_wait(sys, poller, events, 256, 0)) > 0;)
            for (int k = 0; k < count; ++k) {
                CHECK(tokens[j] && events[k].token == tokens[j]);
                heard = heard || (events[k].ready & readable);
            }
        CHECK_EQ(heard, tokens[j] != 0);
        CHECK_EQ(take(pairs[j].ours), 1);
        not_ready(poller, pairs[j].ours, readable);
    }
}

// Time ------------------------------------------------------------------------------------------

namespace {

void check_that_no_timeout_is_early() {
    OpenPoller poller;
    Pair pair = local_pair();
    add(poller, pair.ours, 7);
    listen_for(poller, 7);
    PollEvent events[8];
    for (int64_t timeout : {int64_t{1}, int64_t{1000}, int64_t{999'000}, ms, 3 * ms + 1})
        for (int round = 0; round < 20; ++round) {
            int64_t before = sys.now(sys);
            CHECK_EQ(sys.poller_wait(sys, poller, events, 8, timeout), 0);
            CHECK(sys.now(sys) - before >= timeout);
        }
    // An event ends the longest wait, and what was left of that wait ends no later one.
    put(pair.theirs, 1);
    CHECK_EQ(sys.poller_wait(sys, poller, events, 8, INT64_MAX), 1);
    CHECK_EQ(take(pair.ours), 1);
    CHECK_EQ(take(pair.ours), -EAGAIN);
    not_ready(poller, pair.ours, readable);
    put(pair.theirs, 1);
    CHECK_EQ(sys.poller_wait(sys, poller, events, 8, 2 * ms), 1);
    int64_t before = sys.now(sys);
    CHECK_EQ(sys.poller_wait(sys, poller, events, 8, 10 * ms), 0);
    CHECK(sys.now(sys) - before >= 10 * ms);
}

}  // namespace

TEST(no_timeout_is_early) { check_that_no_timeout_is_early(); }

TEST(a_timeout_of_nothing_only_looks) {
    OpenPoller poller;
    PollEvent events[8];
    CHECK_EQ(sys.poller_wait(sys, poller, events, 8, 0), 0);
}

namespace {

// Has the kernel answer ENOSYS as an older one would: to epoll_pwait2, and to timerfd_create too if
// asked. Where epoll is not what waits this changes nothing.
bool make_kernel_older(bool without_timers) {
#if defined(SECCOMP_SET_MODE_FILTER) && defined(SYS_seccomp) && defined(SYS_epoll_pwait2)
    const uint32_t first = SYS_epoll_pwait2, second = without_timers ? SYS_timerfd_create : first;
    sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, first, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, second, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    sock_fprog filter{sizeof program / sizeof *program, program};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) == 0;
#else
    (void)without_timers;
    return false;
#endif
}

}  // namespace

TEST(no_timeout_is_early_on_a_kernel_without_nanoseconds) {
    if (!make_kernel_older(false)) test::skip("no seccomp here");
    check_that_no_timeout_is_early();
}

TEST(no_timeout_is_early_without_timer_descriptors_either) {
    if (!make_kernel_older(true)) test::skip("no seccomp here");
    check_that_no_timeout_is_early();
}

// Signals, OS threads, processes ----------------------------------------------------------------

TEST(a_signal_ends_a_wait_without_events) {
    OpenPoller poller;
    struct sigaction action{};
    action.sa_handler = [](int) {};
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART;
    REQUIRE(sigaction(SIGALRM, &action, nullptr) == 0);
    itimerval often{{0, 10'000}, {0, 10'000}};
    REQUIRE(setitimer(ITIMER_REAL, &often, nullptr) == 0);
    PollEvent events[8];
    CHECK_EQ(sys.poller_wait(sys, poller, events, 8, -1), 0);
    CHECK_EQ(sys.poller_wait(sys, poller, events, 8, 3600'000 * ms), 0);
    often = {};
    setitimer(ITIMER_REAL, &often, nullptr);
}

TEST(a_wait_without_end_is_ended_by_another_os_thread) {
    OpenPoller poller;
    static Pair pair = local_pair();
    add(poller, pair.ours, 7);
    listen_for(poller, 7);
    pthread_t other;
    pthread_create(
        &other, nullptr,
        [](void*) -> void* {
            usleep(10'000);
            put(pair.theirs, 1);
            return nullptr;
        },
        nullptr);
    PollEvent events[8];
    CHECK_EQ(sys.poller_wait(sys, poller, events, 8, -1), 1);
    CHECK(events[0].token == 7 && (events[0].ready & readable));
    pthread_join(other, nullptr);
}

TEST(a_child_that_closes_its_poller_closes_nothing_else) {
    OpenPoller poller;
    sys.fork_count(sys);
    Pair pair = local_pair();
    add(poller, pair.ours, 7);
    listen_for(poller, 7);
    pid_t child = fork();
    if (child == 0) {
        // Where children have no kqueue its number may be any of these.
        int fds[8];
        for (int& fd : fds) fd = dup(pair.theirs);
        sys.poller_close(sys, poller);
        for (int fd : fds)
            if (fcntl(fd, F_GETFD) < 0) _exit(1);
        _exit(0);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    put(pair.theirs, 1);
    CHECK(listen_for(poller, 7).ready & readable);
}

// Memory ----------------------------------------------------------------------------------------

namespace {

int allocations_left;
int held = 0;

System with_little_memory() {
    System little = production_system;
    little.allocate = [](const System&, size_t size) -> void* {
        if (allocations_left-- <= 0) return nullptr;
        ++held;
        return malloc(size);
    };
    little.release = [](const System&, void* memory, size_t) {
        --held;
        free(memory);
    };
    return little;
}

}  // namespace

TEST(without_memory_a_poller_refuses_and_loses_nothing) {
    System little = with_little_memory();
    constexpr int many = 100;
    Pair pairs[many];
    for (Pair& each : pairs) each = local_pair();
    for (int allowed = 0; allowed < 10; ++allowed) {
        allocations_left = allowed;
        Poller* poller = nullptr;
        int opened = little.poller_open(little, &poller);
        CHECK(opened == 0 || opened == -ENOMEM);
        if (opened < 0) continue;
        int refused = 0;
        bool added[many] = {};
        for (int i = 0; i < many; ++i) {
            int result = little.poller_add(little, poller, pairs[i].ours, uint64_t(i));
            CHECK(result == 0 || result == -ENOMEM);
            added[i] = result == 0;
            refused += result != 0;
        }
        PollEvent events[256];
        int told = little.poller_wait(little, poller, events, 256, 0);
        CHECK_EQ(told, many - refused);
        for (int i = 0; i < told; ++i) CHECK(added[events[i].token]);
        allocations_left = 100;
        for (int i = 0; i < many; ++i) {
            if (added[i]) continue;
            CHECK_EQ(little.poller_add(little, poller, pairs[i].ours, uint64_t(i)), 0);
        }
        for (Pair& each : pairs) CHECK_EQ(little.poller_remove(little, poller, each.ours), 0);
        little.poller_close(little, poller);
    }
    CHECK_EQ(held, 0);
}

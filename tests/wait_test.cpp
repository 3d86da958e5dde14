// Wait: a thread that waits for a descriptor of somebody else's.
#include "child.h"
#include "inspection.h"
#include "machine.h"
#include "test.h"
#include "virtual_time.h"

#include <copse/copse.h>

#include <algorithm>
#include <fcntl.h>
#include <netinet/in.h>
#include <string>
#include <sys/socket.h>
#include <unistd.h>
#include <vector>

using namespace copse;

namespace {

std::string trace;

Thread add(auto&& body) {
    Result<Thread> thread = addthread(std::forward<decltype(body)>(body));
    REQUIRE(thread);
    return *thread;
}

struct Pipe {
    int out, in;
    Pipe() {
        int ends[2];
        REQUIRE(pipe(ends) == 0);
        out = ends[0];
        in = ends[1];
    }
};
struct Pair {
    int ours, theirs;
    Pair() {
        int ends[2];
        REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
        ours = ends[0];
        theirs = ends[1];
    }
};

void put(int fd) { CHECK_EQ(write(fd, "x", 1), 1); }
void take(int fd) {
    char byte;
    CHECK_EQ(read(fd, &byte, 1), 1);
}

// Until the descriptor's peer takes no more.
void fill(int fd) {
    char bytes[4096] = {};
    int flags = fcntl(fd, F_GETFL);
    fcntl(fd, F_SETFL, flags | O_NONBLOCK);
    while (write(fd, bytes, sizeof bytes) > 0) {}
    while (write(fd, bytes, 1) > 0) {}
    fcntl(fd, F_SETFL, flags);
}

}  // namespace

TEST(a_thread_waits_until_there_is_something_to_read) {
    test::VirtualTime clock;
    Pipe pipe;
    add([&] {
        for (int i = 0; i < 10; ++i) {
            Result<Events> ready = wait(pipe.out, Events::readable);
            CHECK_EQ(ready.error, Error::none);
            CHECK(*ready == Events::readable);
            CHECK_EQ(clock.time % 10, i);
            take(pipe.out);
        }
    });
    int64_t next = 0;
    clock.time = 0;
    clock.meanwhile = [&](int64_t timeout) {
        CHECK_EQ(timeout, -1);
        clock.time = next++;
        put(pipe.in);
    };
    CHECK_EQ(loop(), Error::none);
    CHECK_EQ(next, 10);
    Inspection::check_at_rest();
}

TEST(what_is_ready_already_is_found_and_found_again) {
    Pipe pipe;
    put(pipe.in);
    add([&] {
        for (int i = 0; i < 10; ++i) {
            CHECK(*wait(pipe.out, Events::readable) == Events::readable);
            CHECK(*wait(pipe.in, Events::writable) == Events::writable);
        }
    });
    CHECK_EQ(loop(), Error::none);
}

TEST(either_direction_or_both_may_be_waited_for) {
    test::VirtualTime clock;
    Pair pair;
    add([&] {
        CHECK(*wait(pair.ours, Events::writable) == Events::writable);
        CHECK(*wait(pair.ours, Events::both) == Events::writable);
        CHECK_EQ(wait(pair.ours, Events::readable, 1_s).error, Error::timeout);
        put(pair.theirs);
        CHECK(*wait(pair.ours, Events::both) == Events::both);
        CHECK(*wait(pair.ours, Events::readable) == Events::readable);
        fill(pair.ours);
        CHECK(*wait(pair.ours, Events::both) == Events::readable);
        CHECK_EQ(wait(pair.ours, Events::writable, 1_s).error, Error::timeout);
        take(pair.ours);
        CHECK_EQ(wait(pair.ours, Events::both, 1_s).error, Error::timeout);
        close(pair.theirs);
        CHECK(*wait(pair.ours, Events::both) == Events::both);
    });
    CHECK_EQ(loop(), Error::none);
    Inspection::check_at_rest();
}

TEST(an_end_or_an_error_is_ready_for_whoever_waits) {
    Pipe pipe, broken;
    close(pipe.in);
    close(broken.out);
    Pair pair;
    close(pair.theirs);
    int refused = socket(AF_INET, SOCK_STREAM, 0);
    fcntl(refused, F_SETFL, O_NONBLOCK);
    sockaddr_in nobody{};
    nobody.sin_family = AF_INET;
    nobody.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    nobody.sin_port = htons(1);
    CHECK(connect(refused, reinterpret_cast<sockaddr*>(&nobody), sizeof nobody) < 0);
    add([&] {
        CHECK(*wait(pipe.out, Events::readable) == Events::readable);
        CHECK(*wait(broken.in, Events::writable) == Events::writable);
        CHECK(*wait(pair.ours, Events::readable) == Events::readable);
        CHECK(*wait(pair.ours, Events::writable) == Events::writable);
        CHECK(*wait(refused, Events::both) == Events::both);
    });
    CHECK_EQ(loop(), Error::none);
}

TEST(an_end_that_comes_while_a_thread_waits_wakes_it) {
    test::VirtualTime clock;
    for (Events wanted : {Events::readable, Events::both}) {
        Pair pair;
        bool woken = false;
        add([&] {
            fill(pair.ours);
            CHECK(*wait(pair.ours, wanted) == wanted);
            woken = true;
        });
        clock.meanwhile = [&](int64_t) { close(pair.theirs); };
        CHECK_EQ(loop(), Error::none);
        CHECK(woken);
    }
}

TEST(a_wait_ends_at_its_timeout_and_not_before) {
    test::VirtualTime clock;
    setspin(0_s);
    Pipe pipe;
    add([&] {
        for (Duration length : {1_ns, 1_ms, 5_s}) {
            Time start = clock.at();
            Result<Events> nothing = wait(pipe.out, Events::readable, length);
            CHECK_EQ(nothing.error, Error::timeout);
            CHECK(*nothing == Events::none);
            CHECK(clock.at() - start == length);
        }
    });
    CHECK_EQ(loop(), Error::none);
    CHECK((clock.waits == std::vector<int64_t>{1, 1'000'000, 5'000'000'000}));
    Inspection::check_at_rest();
}

TEST(the_descriptor_stays_as_it_was) {
    Pipe pipe;
    int flags = fcntl(pipe.out, F_GETFL), own = fcntl(pipe.out, F_GETFD);
    put(pipe.in);
    add([&] { CHECK(wait(pipe.out, Events::readable)); });
    CHECK_EQ(loop(), Error::none);
    CHECK_EQ(fcntl(pipe.out, F_GETFL), flags);
    CHECK_EQ(fcntl(pipe.out, F_GETFD), own);
    CHECK_EQ(destroy_loop(), Error::none);
    take(pipe.out);
}

TEST(what_cannot_be_polled_is_refused_with_the_reason) {
    int file = open("/etc/passwd", O_RDONLY), folder = open("/", O_RDONLY | O_DIRECTORY);
    CHECK(!step(0_s).error);  // the loop has its descriptors
    int closed = dup(2);
    close(closed);
    add([=] {
        if (file >= 0) CHECK_EQ(wait(file, Events::readable).error, Error::unsupported);
        CHECK_EQ(wait(folder, Events::readable).error, Error::unsupported);
        CHECK_EQ(wait(closed, Events::readable).error, Error::from_errno(EBADF));
        CHECK_EQ(wait(-1, Events::readable).error, Error::from_errno(EBADF));
        CHECK_EQ(wait(1 << 29, Events::readable).error, Error::from_errno(EBADF));
        CHECK_EQ(wait(2, Events::none).error, Error::invalid);
        CHECK_EQ(status().descriptors, 0u);
    });
    CHECK_EQ(loop(), Error::none);
    Inspection::check_at_rest();
}

TEST(one_thread_waits_for_a_descriptor_and_a_second_is_told) {
    test::VirtualTime clock;
    Pipe pipe;
    add([&] {
        CHECK(*wait(pipe.out, Events::readable) == Events::readable);
        trace += "first ";
    });
    add([&] {
        Result<Events> second = wait(pipe.out, Events::readable);
        CHECK_EQ(second.error, Error::busy);
        CHECK(*second == Events::none);
        CHECK_EQ(wait(pipe.out, Events::readable, 0_s).error, Error::busy);
        trace += "second ";
        put(pipe.in);
        CHECK_EQ(sleep_for(1_s), Error::none);
        CHECK(*wait(pipe.out, Events::readable) == Events::readable);  // free again
        trace += "again";
    });
    CHECK_EQ(loop(), Error::none);
    CHECK(trace == "second first again");
    Inspection::check_at_rest();
}

TEST(descriptors_zero_to_two_are_like_any_other) {
    test::require_in_child([] {
        int kept = dup(2);
        for (int fd : {0, 1, 2}) close(fd);
        CHECK(!step(0_s).error);  // the poller's own may be one of them
        add([] {
            int ends[2];
            CHECK(pipe(ends) == 0);
            CHECK(ends[0] < 3);
            CHECK_EQ(wait(ends[0], Events::readable, 1_us).error, Error::timeout);
            put(ends[1]);
            CHECK(*wait(ends[0], Events::readable) == Events::readable);
            CHECK(*wait(ends[1], Events::writable) == Events::writable);
        });
        CHECK_EQ(loop(), Error::none);
        CHECK_EQ(destroy_loop(), Error::none);
        dup2(kept, 2);
    });
}

TEST(thousands_of_descriptors_wake_the_right_threads) {
    test::VirtualTime clock;
    // poll() looks at each of them at every call.
    bool looks_at_all = !strcmp(clock.poller_name, "poll");
    const int count = test::sanitized || looks_at_all ? 500 : 4000;
    std::vector<Pipe> pipes;
    std::vector<int> order, expected;
    for (int i = 0; i < count; ++i) {
        int ends[2];
        if (::pipe(ends) != 0) break;  // as many as there may be
        close(ends[0]), close(ends[1]);
        pipes.emplace_back();
    }
    REQUIRE(pipes.size() >= 100);
    for (size_t i = 0; i < pipes.size(); ++i)
        add([&, i] {
            CHECK(*wait(pipes[i].out, Events::readable, 1000_s) == Events::readable);
            order.push_back(int(i));
        });
    size_t next = 0;
    clock.meanwhile = [&](int64_t) {
        for (int k = 0; k < 7 && order.size() + unsigned(k) < pipes.size(); ++k) {
            size_t which = next++ * 7919 % pipes.size();  // all of them, in an odd order
            expected.push_back(int(which));
            put(pipes[which].in);
        }
    };
    CHECK_EQ(loop(), Error::none);
    REQUIRE(order.size() == expected.size());
    // Seven at a time; among these the order is the kernel's.
    for (size_t from = 0; from < order.size(); from += 7) {
        size_t to = std::min(from + 7, order.size());
        auto begin = order.begin() + ptrdiff_t(from), end = order.begin() + ptrdiff_t(to);
        std::sort(begin, end);
        begin = expected.begin() + ptrdiff_t(from), end = expected.begin() + ptrdiff_t(to);
        std::sort(begin, end);
    }
    CHECK(order == expected);
    Inspection::check_at_rest();
}

// Descriptors that change hands -------------------------------------------------------------------

TEST(an_event_of_the_last_waiter_does_not_wake_the_next) {
    test::VirtualTime clock;
    Pipe pipe, next;
    add([&] {
        Thread first = add([&] {
            CHECK_EQ(wait(pipe.out, Events::readable).error, Error::canceled);
        });
        CHECK_EQ(yield(), Error::none);
        // Closed behind the loop's back, and alive: the poller goes on telling of it.
        int alive = dup(pipe.out);
        close(pipe.out);
        CHECK_EQ(first.cancel(), Error::none);
        CHECK_EQ(first.join(), Error::none);
        // The same number, the same place in every table, another description.
        dup2(next.out, pipe.out);
        clock.meanwhile = [&](int64_t) { put(pipe.in); };
        CHECK_EQ(wait(pipe.out, Events::readable, 1_s).error, Error::timeout);
        CHECK_EQ(Inspection::watches(), 1u);
        clock.meanwhile = [&](int64_t) { put(next.in); };
        CHECK(*wait(pipe.out, Events::readable, 1_s) == Events::readable);
        take(alive);
    });
    CHECK_EQ(loop(), Error::none);
}

// Closed behind the loop's back, a duplicate alive: an edge-triggered poller goes on telling of it,
// with a token that nobody knows.
TEST(events_that_belong_to_nobody_wake_nobody_and_end_after_a_while) {
    struct Counting : test::VirtualTime {
        mutable int opened = 0, events = 0;
        decltype(System::poller_wait) wait_virtually = poller_wait;
        Counting() {
            poller_open = [](const System& system, Poller** out) {
                ++static_cast<const Counting&>(system).opened;
                return production_system.poller_open(system, out);
            };
            poller_wait = [](const System& system, Poller* poller, PollEvent* events, int capacity,
                             int64_t timeout) {
                auto& self = static_cast<const Counting&>(system);
                int count = self.wait_virtually(system, poller, events, capacity, timeout);
                if (count > 0) self.events += count;
                return count;
            };
        }
    };
    Counting clock;
    Pair pair;
    Pipe quiet;
    Thread bystander =
        add([&] { CHECK(*wait(quiet.out, Events::readable) == Events::readable); });
    add([&] {
        CHECK_EQ(wait(pair.ours, Events::readable, 1_s).error, Error::timeout);
        Thread victim = add([&] {
            CHECK_EQ(wait(pair.ours, Events::readable).error, Error::canceled);
        });
        CHECK_EQ(yield(), Error::none);
        int alive = dup(pair.ours);
        close(pair.ours);
        CHECK_EQ(victim.cancel(), Error::none);
        CHECK_EQ(victim.join(), Error::none);
        uint64_t switches = status().switches;
        for (int i = 0; i < 1000; ++i) {
            put(pair.theirs);
            CHECK_EQ(sleep_for(1_ms), Error::none);
            take(alive);
        }
        // Nobody ran but this thread; what nobody wanted was heard a bounded number of times.
        CHECK(status().switches - switches <= 1010);
        if (!strcmp(status().poller, "epoll")) {
            CHECK(clock.events >= 64 && clock.events <= 70);
            CHECK_EQ(clock.opened, 2);
        }
        put(quiet.in);
        CHECK_EQ(bystander.join(), Error::none);
        close(alive);
    });
    CHECK_EQ(loop(), Error::none);
    Inspection::check_at_rest();
}

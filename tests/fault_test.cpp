// Faults: a poller that fails in any way it can, and a loop that lives.
#include "child.h"
#include "inspection.h"
#include "machine.h"
#include "test.h"
#include "virtual_time.h"

#include <copse/copse.h>

#include <fcntl.h>
#include <signal.h>
#include <string>
#include <unistd.h>
#include <vector>

using namespace copse;

namespace {

// Everything that the manual pages of epoll, kqueue and poll know, and some more.
const int errors[] = {EAGAIN, EINTR, ENOMEM, EMFILE, ENFILE, ENOSPC, EPERM,
                      ENOENT, EEXIST, EFAULT, ELOOP, ENOSYS, EIO, EACCES};

struct Failing : test::VirtualTime {
    enum Call { none, open, add, remove, wait };
    mutable Call failing = none;
    mutable int error = 0;
    mutable int grants = 0;   // calls that succeed before
    mutable int failures = 0;  // calls that fail then
    mutable uint64_t last_token = 0;
    decltype(System::poller_wait) wait_virtually = poller_wait;

    Failing() {
        poller_open = [](const System& system, Poller** out) {
            int error = self(system).fails(open);
            return error ? error : production_system.poller_open(system, out);
        };
        poller_add = [](const System& system, Poller* poller, int fd, uint64_t token) {
            self(system).last_token = token;
            int error = self(system).fails(add);
            return error ? error : production_system.poller_add(system, poller, fd, token);
        };
        poller_remove = [](const System& system, Poller* poller, int fd) {
            int error = self(system).fails(remove);
            if (error) (void)production_system.poller_remove(system, poller, fd);
            return error ? error : production_system.poller_remove(system, poller, fd);
        };
        poller_wait = [](const System& system, Poller* poller, PollEvent* events, int capacity,
                         int64_t timeout) {
            int error = self(system).fails(wait);
            // Nothing of what is there is true after an error.
            for (int i = 0; error && i < capacity; ++i) events[i] = {self(system).last_token, 7};
            return error ? error
                         : self(system).wait_virtually(system, poller, events, capacity, timeout);
        };
    }
    ~Failing() { (void)destroy_loop(); }
    void fail(Call call, int with, int after, int times) const {
        failing = call;
        error = with;
        grants = after;
        failures = times;
    }

  private:
    static const Failing& self(const System& system) {
        return static_cast<const Failing&>(system);
    }
    int fails(Call call) const {
        if (call != failing || grants-- > 0 || failures-- <= 0) return 0;
        return -error;
    }
};

// Threads that sleep and threads that wait for each other through a pipe.
struct Traffic {
    int rounds = 0, sleeps = 0, refused = 0;
    void run(const test::VirtualTime& clock) {
        int there[2], back[2];
        REQUIRE(pipe(there) == 0 && pipe(back) == 0);
        for (int fd : {there[0], back[0]}) fcntl(fd, F_SETFL, O_NONBLOCK);
        auto wait_for = [this](int fd) {
            for (;;) {
                Result<Events> ready = wait(fd, Events::readable);
                CHECK(ready || *ready == Events::none);
                if (ready) break;
                ++refused;
                CHECK_EQ(yield(), Error::none);
            }
        };
        char byte = 'x';
        addthread([&] {
            for (; rounds < 20; ++rounds) {
                CHECK_EQ(write(there[1], &byte, 1), 1);
                wait_for(back[0]);
                CHECK_EQ(read(back[0], &byte, 1), 1);
            }
        });
        addthread([&] {
            for (int i = 0; i < 20; ++i) {
                wait_for(there[0]);
                CHECK_EQ(read(there[0], &byte, 1), 1);
                CHECK_EQ(write(back[1], &byte, 1), 1);
            }
        });
        addthread([&] {
            for (; sleeps < 20; ++sleeps) {
                Time end = clock.at() + 1_ms;
                CHECK_EQ(sleep_until(end), Error::none);
                CHECK(clock.at() == end);
            }
        });
        CHECK_EQ(loop(), Error::none);
        CHECK_EQ(rounds, 20);
        CHECK_EQ(sleeps, 20);
        Inspection::check_at_rest();
        for (int fd : {there[0], there[1], back[0], back[1]}) close(fd);
    }
};

std::vector<std::string> reports;
void expect_reports() {
    reports.clear();
    auto keep = [](Thread, const char* what, void*) { reports.push_back(what); };
    CHECK_EQ(seterrorhandler(keep, nullptr, true), Error::none);
}

}  // namespace

TEST(a_loop_without_a_poller_is_refused_with_the_reason) {
    Failing system;
    for (int error : errors) {
        system.fail(Failing::open, error, 0, 1);
        Result<Thread> thread = addthread([] {});
        CHECK_EQ(thread.error, Error::from_errno(error));
        CHECK(addthread([] {}));
        CHECK_EQ(loop(), Error::none);
        CHECK_EQ(destroy_loop(), Error::none);
    }
}

TEST(a_descriptor_that_cannot_be_watched_is_refused_with_the_reason) {
    Failing system;
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    for (int error : errors) {
        system.fail(Failing::add, error, 0, 1);
        addthread([=] {
            Error expected = error == EPERM    ? Error::unsupported
                             : error == EEXIST ? Error::busy
                                               : Error::from_errno(error);
            CHECK_EQ(wait(ends[1], Events::writable).error, expected);
            CHECK_EQ(wait(ends[1], Events::writable).error, Error::none);
        });
        CHECK_EQ(loop(), Error::none);
        Inspection::check_at_rest();
        CHECK_EQ(Inspection::watches(), 1u);
    }
}

TEST(registrations_that_fail_now_and_then_hold_up_nobody_else) {
    for (int error : errors)
        for (int after : {0, 1, 7}) {
            Failing system;
            system.fail(Failing::add, error, after, 3);
            Traffic traffic;
            traffic.run(system);
            CHECK_EQ(traffic.refused, 3);
        }
}

TEST(a_removal_that_fails_matters_to_nobody) {
    for (int error : errors)
        for (int after : {0, 1, 7}) {
            Failing system;
            system.fail(Failing::remove, error, after, 3);
            Traffic{}.run(system);
        }
}

TEST(waits_that_fail_lose_no_event_and_no_deadline) {
    for (int error : errors)
        for (int after : {0, 1, 7}) {
            Failing system;
            CHECK(!step(0_s).error);
            expect_reports();
            system.fail(Failing::wait, error, after, 5);
            Traffic{}.run(system);
            bool passing = error == EAGAIN || error == EINTR || error == ENOMEM;
            CHECK_EQ(reports.size(), passing ? 0u : 5u);
            const char* words = Error::from_errno(error).message();
            for (const std::string& each : reports) CHECK(each == words);
        }
}

TEST(a_poller_that_is_no_more_ends_the_program_and_says_why) {
    for (int error : {EBADF, EINVAL}) {
        test::Ended ended = test::in_child([=] {
            Failing system;
            system.fail(Failing::wait, error, 0, 1);
            addthread([] { CHECK_EQ(sleep_for(1_s), Error::none); });
            (void)loop();
        });
        CHECK_EQ(ended.signal(), SIGABRT);
        CHECK(ended.mentions("copse: "));
        CHECK(ended.mentions("runtime/loop.cpp:"));
        CHECK(ended.mentions("a poller that can be asked"));
    }
}

TEST(events_with_tokens_that_nobody_has_are_dropped) {
    struct Inventing : test::VirtualTime {
        decltype(System::poller_wait) wait_virtually = poller_wait;
        mutable int opened = 0, invented = 0;
        Inventing() {
            poller_open = [](const System& system, Poller** out) {
                ++static_cast<const Inventing&>(system).opened;
                return production_system.poller_open(system, out);
            };
            poller_wait = [](const System& system, Poller* poller, PollEvent* events, int capacity,
                             int64_t timeout) {
                auto& self = static_cast<const Inventing&>(system);
                int count = self.wait_virtually(system, poller, events, capacity - 3, timeout);
                const uint64_t tokens[] = {0, 0xfffffffffffffffeu, uint64_t(self.invented) << 20};
                for (uint64_t token : tokens) events[count++] = {token, 7};
                self.invented += 3;
                return count;
            };
        }
        ~Inventing() { (void)destroy_loop(); }
    };
    Inventing system;
    Traffic{}.run(system);
    CHECK(system.invented > 20);
}

TEST(a_poller_that_cannot_be_made_anew_is_kept) {
    Failing system;
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    // Ghosts by the hundred, while neither a poller nor a registration can be had.
    for (auto call : {Failing::open, Failing::add}) {
        int other[2];
        REQUIRE(pipe(other) == 0);
        addthread([&] {
            Thread waiter = *addthread(
                [&] { CHECK(*wait(ends[0], Events::readable) == Events::readable); });
            CHECK_EQ(yield(), Error::none);
            int watched = dup(other[0]), alive = dup(watched);
            Thread victim = *addthread(
                [=] { CHECK_EQ(wait(watched, Events::readable).error, Error::canceled); });
            CHECK_EQ(yield(), Error::none);
            close(watched);
            CHECK_EQ(victim.cancel(), Error::none);
            CHECK_EQ(victim.join(), Error::none);
            system.fail(call, EMFILE, 0, 1 << 30);
            char byte = 'x';
            for (int i = 0; i < 500; ++i) {
                CHECK_EQ(write(other[1], &byte, 1), 1);
                CHECK_EQ(sleep_for(1_ms), Error::none);
                CHECK_EQ(read(alive, &byte, 1), 1);
            }
            system.fail(Failing::none, 0, 0, 0);
            CHECK_EQ(write(ends[1], &byte, 1), 1);
            CHECK_EQ(waiter.join(), Error::none);
            CHECK_EQ(read(ends[0], &byte, 1), 1);
            close(alive);
        });
        CHECK_EQ(loop(), Error::none);
        Inspection::check_at_rest();
    }
}

// A signal in every wait, and none that comes to its end.
TEST(a_loop_lives_through_a_storm_of_signals) {
    struct sigaction action{};
    action.sa_handler = [](int) {};
    sigaction(SIGUSR1, &action, nullptr);
    test::VirtualTime clock;
    clock.meanwhile = [](int64_t) { raise(SIGUSR1); };
    clock.interrupts = 10'000;
    Traffic{}.run(clock);
}

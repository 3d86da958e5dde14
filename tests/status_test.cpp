// Status: what the loop tells of itself, and how long it looks before it sleeps.
#include "child.h"
#include "inspection.h"
#include "test.h"
#include "virtual_time.h"

#include "runtime/check.h"

#include <copse/copse.h>

#include <signal.h>
#include <sstream>
#include <string>
#include <unistd.h>
#include <vector>

using namespace copse;

namespace {

int ends[2];

std::vector<std::string> dumped() {
    int tell[2];
    REQUIRE(pipe(tell) == 0);
    dump(tell[1]);
    close(tell[1]);
    std::string text;
    char some[4096];
    for (ssize_t got; (got = read(tell[0], some, sizeof some)) > 0;) text.append(some, size_t(got));
    close(tell[0]);
    std::vector<std::string> lines;
    std::istringstream stream{text};
    for (std::string line; std::getline(stream, line);) lines.push_back(line);
    return lines;
}

}  // namespace

TEST(without_a_loop_there_is_nothing_to_tell) {
    Status s = status();
    CHECK_EQ(s.ready + s.waiting + s.sleeping + s.parked + s.descriptors, 0u);
    CHECK_EQ(s.turns, 0u);
    CHECK(dumped().empty());
}

TEST(every_thread_is_counted_in_one_state) {
    test::VirtualTime clock;
    REQUIRE(pipe(ends) == 0);
    for (int i = 0; i < 2; ++i) addthread([] { (void)park(); });
    for (int i = 0; i < 3; ++i) addthread([] { (void)sleep_for(100_s); });
    addthread([] {
        Timeout scope{100_s};
        (void)park();
    });
    addthread([] { (void)wait(ends[0], Events::readable); });
    int other = dup(ends[0]);
    addthread([=] { (void)wait(other, Events::readable, 100_s); });
    addthread([] {
        Status s = status();
        CHECK_EQ(s.ready, 1u + 2u);  // the running one, and two that were added
        CHECK_EQ(s.parked, 2u);
        CHECK_EQ(s.sleeping, 4u);
        CHECK_EQ(s.waiting, 2u);
        CHECK_EQ(s.descriptors, 2u);
        CHECK(s.buffered == 0 && s.lost == 0);
    });
    for (int i = 0; i < 2; ++i) addthread([] {});
    CHECK_EQ(status().ready, 11u);
    CHECK(step().value);
    CHECK_EQ(status().ready, 0u);
    CHECK_EQ(status().switches, 11u);
    cancelall();
    CHECK_EQ(status().ready, 8u);
    CHECK_EQ(loop(), Error::none);
    Status s = status();
    CHECK_EQ(s.ready + s.waiting + s.sleeping + s.parked + s.descriptors, 0u);
    CHECK_EQ(s.switches, 19u);
}

TEST(turns_polls_and_their_times_are_counted) {
    test::VirtualTime clock;
    setspin(0_s);
    addthread([&] {
        for (int i = 1; i <= 3; ++i) {
            clock.pass(i * 1_ms);  // a turn that takes so long
            CHECK_EQ(sleep_for(100_ms), Error::none);
        }
    });
    CHECK_EQ(loop(), Error::none);
    Status s = status();
    CHECK_EQ(s.polls, 3u);
    CHECK(s.turns >= 3);
    CHECK(s.turn_min == 2_ms && s.turn_max == 3_ms && s.turn_avg == 2500_us);
    CHECK(!strcmp(s.poller, production_system.poller_name));
}

TEST(a_dump_has_a_line_for_every_thread) {
    test::VirtualTime clock;
    REQUIRE(pipe(ends) == 0);
    addthread({.name = "parked"}, [] { (void)park(); });
    addthread({.name = "sleeping", .stack_size = 16384}, [] { (void)sleep_for(100_s); });
    addthread({.name = "waiting"}, [] { (void)wait(ends[0], Events::readable); });
    addthread({.name = "stubborn"}, [] {
        while (!stopping()) (void)park();
    });
    addthread({.name = "running"}, [] {
        CHECK_EQ(sleep_for(5_s), Error::none);
        std::vector<std::string> lines = dumped();
        REQUIRE(lines.size() == 6);
        auto has = [&](size_t line, const std::string& words) {
            bool found = lines[line].find(words) != std::string::npos;
            if (!found) fprintf(stderr, "not in '%s': %s\n", lines[line].c_str(), words.c_str());
            return found;
        };
        CHECK(has(0, " parked parked in park for 5000 ms stack "));
        CHECK(has(1, " sleeping parked in sleep for 5000 ms stack "));
        CHECK(has(1, "/16384"));
        CHECK(has(2, " waiting parked in wait fd " + std::to_string(ends[0]) + " for 5000 ms"));
        CHECK(has(3, " stubborn parked in park"));
        CHECK(has(4, " running running stack "));
        CHECK(has(4, "/65536"));
        CHECK(has(4, std::to_string(self().id()) + " "));
        CHECK(has(5, " ready stack "));
        cancelall();
        CHECK_EQ(dumped().size(), 6u);
        lines = dumped();
        CHECK(has(0, " parked ready canceled stack"));
    });
    CHECK(step().value);
    clock.pass(5_s);
    addthread([] { (void)yield(); });
    CHECK_EQ(loop(), Error::none);
    CHECK(dumped().empty());
}

TEST(looking_at_stacks_in_use_is_safe_at_any_moment) {
    for (int i = 0; i < 20; ++i)
        addthread([i] {
            volatile char room[5000];
            for (size_t k = 0; k < sizeof room; k += 100) room[k] = char(i);
            CHECK_EQ(yield(), Error::none);
            CHECK(self().stack_used() > 0);
            CHECK_EQ(dumped().size(), 20u);
            CHECK_EQ(yield(), Error::none);
        });
    CHECK_EQ(loop(), Error::none);
}

TEST(a_broken_invariant_says_what_was_expected_and_where) {
    test::Ended ended = test::in_child([] {
        addthread([] { check(1 == 2, "one to be two"); });
        (void)loop();
    });
    CHECK_EQ(ended.signal(), SIGABRT);
    CHECK(ended.mentions("status_test.cpp:"));
    CHECK(ended.mentions(": one to be two\n"));
}

// Looking before sleeping -------------------------------------------------------------------------

namespace {

// How often the poller is asked not to wait before one wait of that length, in a loop that watches
// something.
size_t looks_before_a_wait_of(test::VirtualTime& clock, Duration length) {
    size_t looks = 0;
    REQUIRE(pipe(ends) == 0);
    Thread waiter = *addthread([] { (void)wait(ends[0], Events::readable); });
    addthread([&] {
        CHECK_EQ(sleep_for(1_ns), Error::none);
        size_t before = clock.looks;
        CHECK_EQ(sleep_for(length), Error::none);
        looks = clock.looks - before;
        CHECK_EQ(waiter.cancel(), Error::none);
    });
    CHECK_EQ(loop(), Error::none);
    close(ends[0]);
    close(ends[1]);
    return looks;
}

}  // namespace

TEST(a_loop_that_may_not_spin_never_does) {
    test::VirtualTime clock;
    for (Duration none : {0_s, -1_s}) {
        setspin(none);
        for (int i = 0; i < 10; ++i) CHECK_EQ(looks_before_a_wait_of(clock, 1_us), 0u);
    }
}

TEST(a_loop_looks_for_so_long_before_it_sleeps_and_no_longer) {
    test::VirtualTime clock;
    clock.tick = 1000;  // a look takes a microsecond
    setspin(20_us);
    size_t looks = looks_before_a_wait_of(clock, 1_s);
    CHECK(looks >= 10 && looks <= 20);
}

TEST(looking_is_bounded_though_the_clock_stands_still) {
    test::VirtualTime clock;
    for (Duration most : {20_us, 1_s, never}) {
        setspin(most);
        size_t looks = looks_before_a_wait_of(clock, 1_us);
        CHECK(looks > 0 && looks <= 1000);
    }
}

TEST(long_waits_put_an_end_to_looking_and_short_ones_begin_it_again) {
    test::VirtualTime clock;
    setspin(20_us);
    CHECK(looks_before_a_wait_of(clock, 1_ms) > 0);
    for (int i = 0; i < 5; ++i) (void)looks_before_a_wait_of(clock, 1_ms);
    CHECK_EQ(looks_before_a_wait_of(clock, 1_ms), 0u);
    for (int i = 0; i < 20; ++i) (void)looks_before_a_wait_of(clock, 1_us);
    CHECK(looks_before_a_wait_of(clock, 1_us) > 0);
}

// How often the poller is asked not to wait before the last of so many waits, which so many
// descriptors end in turn.
static size_t looks_in_company_of(test::VirtualTime& clock, int descriptors, int waits) {
    int pipes[16][2];
    for (int i = 0; i < descriptors; ++i) {
        REQUIRE(pipe(pipes[i]) == 0);
        int fd = pipes[i][0];
        addthread([fd] {
            char byte = 0;
            while (wait(fd, Events::readable) && read(fd, &byte, 1) == 1) {}
        });
    }
    size_t before = 0, looks = 0;
    int told = 0;
    clock.meanwhile = [&](int64_t) {
        looks = clock.looks - before;
        if (told < waits) CHECK_EQ(write(pipes[told % descriptors][1], "x", 1), 1);
        else for (int i = 0; i < descriptors; ++i) close(pipes[i][1]);
        ++told;
        before = clock.looks;
    };
    CHECK_EQ(loop(), Error::none);
    clock.meanwhile = nullptr;
    for (int i = 0; i < descriptors; ++i) close(pipes[i][0]);
    return looks;
}

TEST(a_loop_that_hears_from_few_looks_before_it_sleeps_and_one_that_hears_from_many_does_not) {
    test::VirtualTime clock;
    clock.tick = 100;
    setspin(20_us);
    CHECK(looks_in_company_of(clock, 1, 40) > 10);
    CHECK(looks_in_company_of(clock, 4, 40) > 10);
    CHECK_EQ(looks_in_company_of(clock, 16, 40), 0u);
    CHECK(looks_in_company_of(clock, 2, 40) > 10);
}

TEST(a_spin_as_long_as_time_itself_overflows_nothing) {
    test::VirtualTime clock;
    setspin(never);
    clock.tick = 1000;
    for (Duration length : {1_us, 1_s, 1000000_s, 8000000000_s}) {
        (void)looks_before_a_wait_of(clock, length);
        CHECK(Inspection::typical_wait() >= 0);
        clock.time = 1000;
    }
}

TEST(readiness_found_by_looking_is_not_waited_for) {
    test::VirtualTime clock;
    setspin(20_us);
    clock.tick = 100;
    REQUIRE(pipe(ends) == 0);
    clock.System::poller_wait = [](const System& system, Poller* poller, PollEvent* events,
                                   int capacity, int64_t timeout) {
        static int asked = 0;
        CHECK_EQ(timeout, 0);
        if (++asked == 10) CHECK_EQ(write(ends[1], "x", 1), 1);
        return production_system.poller_wait(system, poller, events, capacity, 0);
    };
    addthread([] { CHECK(*wait(ends[0], Events::readable) == Events::readable); });
    CHECK_EQ(loop(), Error::none);
    CHECK_EQ(status().polls, 10u);
}

// Timeout: scopes that end every parking call within them.
#include "inspection.h"
#include "test.h"
#include "virtual_time.h"

#include <copse/copse.h>

#include <stdexcept>
#include <unistd.h>
#include <vector>

using namespace copse;

namespace {

// Runs body as the only thread of a loop.
void run(auto body) {
    CHECK_EQ(loop([&] { body(); }), Error::none);
    Inspection::check_at_rest();
}

Thread other;  // lives until it is unparked
int ends[2];   // of a pipe with nothing in it

struct ParkingCall {
    const char* name;
    Error (*call)();
};
const ParkingCall calls_that_wait[] = {
    {"sleep_for", [] { return sleep_for(10_s); }},
    {"sleep_for ever", [] { return sleep_for(never); }},
    {"sleep_until", [] { return sleep_until(now() + 10_s); }},
    {"park", [] { return park(); }},
    {"join", [] { return other.join(); }},
    {"wait_for_stop", [] { return wait_for_stop(); }},
    {"wait", [] { return wait(ends[0], Events::readable).error; }},
    {"wait with a timeout", [] { return wait(ends[0], Events::readable, 10_s).error; }},
};

}  // namespace

TEST(a_thread_that_never_has_to_wait_hears_of_a_scopes_end_at_its_next_call) {
    test::VirtualTime clock;
    run([&] {
        Timeout scope{50_ms};
        int calls = 0;
        Error error;
        while (!error && calls < 1000) {
            CHECK_EQ(self().unpark(), Error::none);  // so park() returns at once
            error = park();
            ++calls;
            clock.pass(10_ms);
        }
        CHECK_EQ(error, Error::timeout);
        CHECK_EQ(calls, 6);
    });
}

TEST(a_scope_ends_every_call_that_waits_at_its_very_end) {
    test::VirtualTime clock;
    REQUIRE(pipe(ends) == 0);
    run([&] {
        other = *addthread([] { CHECK_EQ(park(), Error::none); });
        for (const ParkingCall& each : calls_that_wait) {
            Time start = clock.at();
            {
                Timeout scope{3_s};
                Error error = each.call();
                if (error != Error::timeout) fprintf(stderr, "%s:\n", each.name);
                CHECK_EQ(error, Error::timeout);
                CHECK(clock.at() - start == 3_s);
                // It is over, and stays so, for calls that need not wait as well.
                for (const ParkingCall& next : calls_that_wait)
                    CHECK_EQ(next.call(), Error::timeout);
                CHECK_EQ(yield(), Error::timeout);
                CHECK_EQ(sleep_for(0_s), Error::timeout);
            }
            CHECK(clock.at() - start == 3_s);
            CHECK_EQ(yield(), Error::none);
            Inspection::check();
        }
        CHECK_EQ(other.unpark(), Error::none);
    });
}

TEST(a_thread_whose_time_is_up_still_lets_others_run) {
    test::VirtualTime clock;
    run([&] {
        int runs = 0;
        Thread runner = *addthread([&] {
            while (yield() == Error::none) ++runs;
        });
        CHECK_EQ(yield(), Error::none);
        Timeout scope{0_s};
        for (int i = 0; i < 100; ++i) {
            int before = runs;
            CHECK_EQ(yield(), Error::timeout);
            CHECK_EQ(runs, before + 1);
        }
        CHECK_EQ(runner.cancel(), Error::none);
    });
}

TEST(the_nearest_of_nested_scopes_wins_and_the_outer_holds_again_after_it) {
    test::VirtualTime clock;
    run([&] {
        Time start = clock.at();
        Timeout outer{10_s};
        {
            Timeout inner{2_s};
            CHECK(inner.left() == 2_s && outer.left() == 10_s);
            CHECK_EQ(park(), Error::timeout);
            CHECK(clock.at() - start == 2_s);
            CHECK(inner.expired() && !outer.expired());
        }
        {
            Timeout longer{100_s};
            CHECK(longer.left() == 8_s);  // the outer one ends it
            {
                Timeout innermost{1_s};
                CHECK_EQ(sleep_for(500_ms), Error::none);
                CHECK(innermost.left() == 500_ms);
                CHECK_EQ(sleep_for(501_ms), Error::timeout);
            }
            CHECK(clock.at() - start == 3_s);
            CHECK_EQ(park(), Error::timeout);
            CHECK(clock.at() - start == 10_s);
            CHECK(longer.expired() && outer.expired());
        }
        CHECK_EQ(yield(), Error::timeout);
    });
}

TEST(a_sleep_is_a_timeout_only_where_a_scope_cut_it_short) {
    test::VirtualTime clock;
    run([&] {
        for (int64_t scope_ns : {1, 2, 3, 1000}) {
            for (int64_t sleep_ns : {1, 2, 3, 1000}) {
                Time start = clock.at();
                Timeout scope{Duration::nanoseconds(scope_ns)};
                Error error = sleep_for(Duration::nanoseconds(sleep_ns));
                CHECK_EQ(error, sleep_ns <= scope_ns ? Error::none : Error::timeout);
                int64_t shorter = sleep_ns < scope_ns ? sleep_ns : scope_ns;
                CHECK_EQ((clock.at() - start).count(), shorter);
            }
        }
    });
}

TEST(a_scope_that_ends_while_nobody_waits_is_found_by_the_next_call) {
    test::VirtualTime clock;
    run([&] {
        Timeout scope{1_s};
        CHECK_EQ(yield(), Error::none);
        clock.pass(999_ms);
        CHECK_EQ(yield(), Error::none);
        CHECK(!scope.expired());
        clock.pass(1_ms);
        CHECK(scope.expired());
        CHECK_EQ(park(), Error::timeout);
    });
}

TEST(a_scope_tells_what_is_left_of_it) {
    test::VirtualTime clock;
    run([&] {
        Timeout scope{1_s};
        CHECK(scope.left() == 1_s);
        clock.pass(1_ns);
        CHECK(scope.left() == 999999999_ns);
        clock.pass(5_s);
        CHECK(scope.left() == 0_s);
        CHECK(scope.expired());
    });
}

TEST(scopes_without_an_end_and_scopes_that_are_over_at_once) {
    test::VirtualTime clock;
    run([&] {
        {
            Timeout endless{never};
            CHECK(endless.left() == never);
            CHECK(!endless.expired());
            CHECK_EQ(sleep_for(1000000_s), Error::none);
            CHECK(endless.left() == never);
        }
        for (Duration none : {0_s, -1_ns, -1_s, -never, Duration::nanoseconds(INT64_MIN)}) {
            Timeout scope{none};
            CHECK(scope.expired());
            CHECK(scope.left() == 0_s);
            CHECK_EQ(yield(), Error::timeout);
        }
        CHECK_EQ(yield(), Error::none);
    });
}

TEST(a_scope_outside_a_thread_keeps_time_and_nothing_else) {
    test::VirtualTime clock;
    Timeout scope{1_s};
    CHECK(scope.left() == 1_s);
    run([&] {
        CHECK_EQ(sleep_for(2_s), Error::none);  // the loop's own scope is no thread's
        CHECK(scope.expired());
    });
}

TEST(a_scope_is_its_threads_alone) {
    test::VirtualTime clock;
    run([&] {
        Time start = clock.at();
        Thread free = *addthread([&clock, start] {
            CHECK_EQ(sleep_for(5_s), Error::none);
            CHECK(clock.at() - start == 5_s);
        });
        Timeout scope{1_s};
        Thread made_inside = *addthread([] { CHECK_EQ(sleep_for(3_s), Error::none); });
        CHECK_EQ(free.join(), Error::timeout);
        CHECK(!made_inside.finished());
    });
}

TEST(a_scope_left_by_an_exception_is_over) {
    test::VirtualTime clock;
    run([&] {
        try {
            Timeout scope{1_s};
            CHECK_EQ(park(), Error::timeout);
            throw std::runtime_error("out of the scope");
        } catch (const std::runtime_error&) {
            CHECK_EQ(sleep_for(5_s), Error::none);
        }
    });
}

// One call after the other with a deadline each: what a server does all day.
TEST(ten_thousand_scopes_in_a_row_leave_one_entry_behind) {
    test::VirtualTime clock;
    run([&] {
        Thread partner = *addthread([] {
            while (park() == Error::none) CHECK_EQ(other.unpark(), Error::none);
        });
        other = self();
        for (int i = 0; i < 10000; ++i) {
            Timeout scope{60_s};
            CHECK_EQ(partner.unpark(), Error::none);
            CHECK_EQ(park(), Error::none);
            CHECK(Inspection::deadline_entries() <= 1);
            clock.pass(1_ms);
        }
        CHECK_EQ(partner.cancel(), Error::none);
    });
}

// Starvation: nobody who can run waits for long, however busy the others are.
#include "inspection.h"
#include "machine.h"
#include "test.h"
#include "virtual_time.h"

#include <copse/copse.h>

#include <string>
#include <unistd.h>
#include <vector>

using namespace copse;

namespace {

constexpr size_t bound = Loop::dispatch_budget;

int pipe_in, pipe_out;
void open_pipe() {
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    pipe_out = ends[0];
    pipe_in = ends[1];
}

uint64_t dispatches;  // of threads that only yield

void add_busy(int count, const bool& over) {
    for (int i = 0; i < count; ++i)
        addthread([&over] {
            while (!over) {
                ++dispatches;
                CHECK_EQ(yield(), Error::none);
            }
        });
}

}  // namespace

TEST(a_ready_descriptor_is_served_within_64_dispatches_of_ten_thousand_busy_threads) {
    const int busy = test::sanitized ? 1000 : 10'000;
    open_pipe();
    bool over = false;
    uint64_t written = 0, longest = 0;
    addthread([&] {
        char byte;
        for (int i = 0; i < 100; ++i) {
            CHECK_EQ(wait(pipe_out, Events::readable).error, Error::none);
            CHECK_EQ(read(pipe_out, &byte, 1), 1);
            uint64_t took = dispatches - written;
            if (took > longest) longest = took;
            written = 0;
        }
        over = true;
    });
    add_busy(busy, over);
    // Among them one that makes the descriptor ready at all kinds of moments.
    addthread([&] {
        while (!over) {
            CHECK_EQ(yield(), Error::none);
            if (written == 0) {
                written = dispatches;
                CHECK_EQ(write(pipe_in, "x", 1), 1);
            }
        }
    });
    CHECK_EQ(loop(), Error::none);
    CHECK(longest > 0 && longest <= bound);
}

TEST(a_descriptor_made_ready_at_any_moment_of_a_turn_is_served_within_64_dispatches) {
    open_pipe();
    const int busy = 200;
    int round = 0, served = 0;
    uint64_t written = 0, longest = 0;
    addthread([&] {
        char byte;
        while (served < busy) {
            CHECK_EQ(wait(pipe_out, Events::readable).error, Error::none);
            CHECK_EQ(read(pipe_out, &byte, 1), 1);
            if (dispatches - written > longest) longest = dispatches - written;
            ++served;
        }
    });
    for (int i = 0; i < busy; ++i)
        addthread([&, i] {
            while (served < busy) {
                ++dispatches;
                if (round == i && served == round) {
                    ++round;
                    written = dispatches;
                    CHECK_EQ(write(pipe_in, "x", 1), 1);
                }
                CHECK_EQ(yield(), Error::none);
            }
        });
    CHECK_EQ(loop(), Error::none);
    CHECK(longest > 0 && longest <= bound);
}

TEST(a_thread_that_yields_for_ever_does_not_starve_sleepers) {
    for (int busy : {1, 2, 100}) {
        test::VirtualTime clock;
        bool over = false;
        addthread([&] {
            for (int i = 0; i < 50; ++i) {
                Time end = clock.at() + 1_ms;
                uint64_t before = dispatches;
                CHECK_EQ(sleep_until(end), Error::none);
                // Each run of a busy thread takes 10 us: 100 of them are the sleep itself.
                CHECK(clock.at() >= end);
                CHECK(dispatches - before <= 100 + bound);
            }
            over = true;
        });
        for (int i = 0; i < busy; ++i)
            addthread([&] {
                while (!over) {
                    ++dispatches;
                    clock.pass(10_us);
                    CHECK_EQ(yield(), Error::none);
                }
            });
        CHECK_EQ(loop(), Error::none);
        CHECK_EQ(destroy_loop(), Error::none);
    }
}

TEST(a_thread_that_yields_for_ever_does_not_keep_step_from_returning) {
    bool over = false;
    add_busy(3, over);
    for (int i = 0; i < 100; ++i) {
        CHECK(step().value);
        CHECK_EQ(dispatches, 3u * unsigned(i + 1));
    }
    over = true;
    CHECK(step().value);
    CHECK(!step().value);
}

TEST(a_step_runs_only_what_was_ready_when_it_began) {
    std::string trace;
    Thread parked = *addthread([&] {
        CHECK_EQ(park(), Error::none);
        trace += "parked ";
    });
    CHECK(step().value);
    addthread([&] {
        trace += "first ";
        CHECK_EQ(parked.unpark(), Error::none);
        addthread([&] { trace += "added "; });
        CHECK_EQ(yield(), Error::none);
        trace += "yielded ";
    });
    addthread([&] { trace += "second "; });
    CHECK(step().value);
    CHECK(trace == "first second ");
    CHECK(step().value);
    CHECK(trace == "first second parked added yielded ");
    CHECK(!step().value);
}

TEST(a_step_of_many_threads_runs_each_once_and_looks_at_the_world_meanwhile) {
    open_pipe();
    std::vector<int> runs(1000);
    bool served = false;
    addthread([&] {
        CHECK_EQ(wait(pipe_out, Events::readable).error, Error::none);
        served = true;
    });
    CHECK(step().value);
    for (size_t i = 0; i < runs.size(); ++i)
        addthread([&, i] {
            for (;;) {
                ++runs[i];
                if (i == 0) CHECK_EQ(write(pipe_in, "x", 1), 1);
                if (i == bound) CHECK(served);
                if (yield() != Error::none) break;
            }
        });
    CHECK(step().value);
    CHECK(served);
    for (int each : runs) CHECK_EQ(each, 1);
    cancelall();
    CHECK_EQ(loop(), Error::none);
}

TEST(a_loop_asks_the_kernel_once_in_64_dispatches_and_not_more_often) {
    open_pipe();
    bool over = false;
    Thread waiter = *addthread([&] { (void)wait(pipe_out, Events::readable); });
    add_busy(1, over);
    addthread([&] {
        for (int i = 0; i < 32 * 1000; ++i) CHECK_EQ(yield(), Error::none);
        over = true;
        CHECK_EQ(waiter.cancel(), Error::none);
    });
    CHECK_EQ(loop(), Error::none);
    uint64_t polls = status().polls;
    CHECK(polls >= 1000 && polls <= 1010);
}

TEST(a_loop_without_descriptors_asks_the_kernel_nothing) {
    addthread([] {
        for (int i = 0; i < 10000; ++i) CHECK_EQ(yield(), Error::none);
    });
    CHECK_EQ(loop(), Error::none);
    CHECK_EQ(status().polls, 0u);
}

TEST(threads_woken_by_the_world_go_ahead_of_those_that_yield) {
    test::VirtualTime clock;
    bool over = false;
    add_busy(50, over);
    addthread([&] {
        CHECK_EQ(sleep_for(1_ms), Error::none);
        uint64_t before = dispatches;
        CHECK(before > 0);
        over = true;
    });
    CHECK(step().value);
    uint64_t before = dispatches;
    clock.pass(1_ms);
    CHECK(step().value);
    CHECK_EQ(dispatches, before);  // the sleeper ran first, and set the end
    CHECK_EQ(loop(), Error::none);
}

// One ready descriptor must not keep another's reader from its turn.
TEST(descriptors_that_are_always_ready_do_not_starve_deadlines) {
    test::VirtualTime clock;
    open_pipe();
    CHECK_EQ(write(pipe_in, "x", 1), 1);
    bool over = false;
    addthread([&] {
        while (!over) {
            CHECK_EQ(wait(pipe_out, Events::readable).error, Error::none);
            ++dispatches;
            clock.pass(10_us);
        }
    });
    addthread([&] {
        CHECK_EQ(sleep_for(1_ms), Error::none);
        over = true;
    });
    CHECK_EQ(loop(), Error::none);
    CHECK(dispatches <= 100 + bound);
}

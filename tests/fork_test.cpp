// Fork: a child may do nothing with its parent's loop until it has made it its own.
#include "child.h"
#include "inspection.h"
#include "machine.h"
#include "test.h"
#include "virtual_time.h"

#include <copse/copse.h>

#include <string>
#include <unistd.h>

using namespace copse;

namespace {

std::string trace;
int ends[2];

Thread add(auto&& body) {
    Result<Thread> thread = addthread(std::forward<decltype(body)>(body));
    REQUIRE(thread);
    return *thread;
}

// Forks; the child runs body, returns from the calling thread and, when its loop has returned,
// runs the rest and exits. In the parent: waits for it. So everything the child does, it has done
// before the parent goes on.
bool is_child = false;
pid_t fork_here() {
    // In a child of a program with several of its fibers it no longer follows who waits for whom.
    if (test::thread_sanitizer) test::skip("ThreadSanitizer does not follow threads into a child");
    fflush(nullptr);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        is_child = true;
        test::failures = 0;
    }
    return child;
}
[[noreturn]] void end_child() {
    fflush(nullptr);
    _exit(test::failures != 0);
}

void check_that_all_answer_forked(Thread other) {
    CHECK_EQ(yield(), Error::forked);
    CHECK_EQ(sleep_for(1_s), Error::forked);
    CHECK_EQ(sleep_for(0_s), Error::forked);
    CHECK_EQ(sleep_until(now()), Error::forked);
    CHECK_EQ(self().unpark(), Error::forked);
    CHECK_EQ(park(), Error::forked);
    CHECK_EQ(other.join(), Error::forked);
    CHECK_EQ(other.unpark(), Error::forked);
    CHECK_EQ(other.cancel(), Error::forked);
    CHECK_EQ(wait_for_stop(), Error::forked);
    CHECK_EQ(wait(ends[0], Events::readable).error, Error::forked);
    CHECK_EQ(wait(0, Events::both, 0_s).error, Error::forked);
    CHECK_EQ(addthread([] { trace += "child's "; }).error, Error::forked);
    {
        Timeout scope{0_s};
        CHECK_EQ(yield(), Error::forked);
    }
}

}  // namespace

TEST(every_call_in_the_child_answers_forked_and_nobody_else_runs_there) {
    test::VirtualTime clock;
    REQUIRE(pipe(ends) == 0);
    add([] {
        CHECK_EQ(wait(ends[0], Events::readable).error, Error::none);
        trace += "waiter ";
    });
    Thread other = add([] {
        CHECK_EQ(park(), Error::none);
        trace += "other ";
    });
    add([=] {
        CHECK_EQ(yield(), Error::none);
        // The edge is on its way: a child that asks the poller they share would swallow it.
        CHECK_EQ(write(ends[1], "x", 1), 1);
        add([] {
            CHECK(!is_child);
            trace += "ready ";
        });
        pid_t child = fork_here();
        if (is_child) return check_that_all_answer_forked(other);
        CHECK_EQ(test::status_of(child), 0);
        CHECK_EQ(yield(), Error::none);
        CHECK_EQ(other.unpark(), Error::none);
    });
    Error error = loop();
    if (is_child) {
        CHECK_EQ(error, Error::forked);
        CHECK_EQ(loop(), Error::forked);
        CHECK_EQ(step().error, Error::forked);
        CHECK_EQ(loop([] {}), Error::forked);
        CHECK(trace == "");
        end_child();
    }
    CHECK_EQ(error, Error::none);
    CHECK(trace.find("waiter") != std::string::npos);
    CHECK(trace.find("other") != std::string::npos);
    CHECK(trace.find("ready") != std::string::npos);
    Inspection::check_at_rest();
}

TEST(outside_of_a_thread_calls_that_park_answer_forked_in_the_child_too) {
    test::VirtualTime clock;
    Thread other = add([] { CHECK_EQ(park(), Error::none); });
    CHECK(step(0_s).value);
    pid_t child = fork_here();
    if (is_child) {
        CHECK_EQ(yield(), Error::forked);
        CHECK_EQ(sleep_for(1_s), Error::forked);
        CHECK_EQ(park(), Error::forked);
        CHECK_EQ(other.join(), Error::forked);
        CHECK_EQ(wait_for_stop(), Error::forked);
        CHECK_EQ(wait(0, Events::readable).error, Error::forked);
        end_child();
    }
    CHECK_EQ(test::status_of(child), 0);
    CHECK_EQ(other.unpark(), Error::none);
    CHECK_EQ(loop(), Error::none);
}

TEST(what_the_child_closes_wakes_the_copies_that_wait_for_it) {
    test::VirtualTime clock;
    auto ends = std::move(*pair());
    Listener listener = std::move(*bind("127.0.0.1", 0, {.max_connections = 1}));
    Address address = *listener.address();
    Error flushed = Error::none, accepted = Error::none;
    std::string much(4 << 20, 'x');
    ends.first.setlimit(0, much.size());
    add([&] {
        CHECK_EQ(ends.first.send(much).error, Error::none);
        flushed = ends.first.flush();
    });
    add([&] {
        Result<Stream> first = listener.accept();
        CHECK_EQ(first.error, Error::none);
        accepted = listener.accept().error;
    });
    Stream client;
    add([&] { client = std::move(*connect(address)); });
    for (int i = 0; i < 20; ++i) (void)step(1_ms);
    pid_t child = fork_here();
    if (is_child) {
        CHECK_EQ(ends.first.close(), Error::none);
        CHECK_EQ(listener.close(), Error::none);
        CHECK_EQ(after_fork(), Error::none);
        CHECK_EQ(loop(), Error::none);
        CHECK_EQ(flushed, Error::closed);
        CHECK_EQ(accepted, Error::closed);
        end_child();
    }
    CHECK_EQ(test::status_of(child), 0);
    (void)ends.first.reset();
    (void)listener.close();
    CHECK_EQ(loop(), Error::none);
}

TEST(a_child_may_forget_the_loop_and_make_its_own) {
    test::VirtualTime clock;
    REQUIRE(pipe(ends) == 0);
    struct Witness {
        ~Witness() { CHECK(!is_child); }
    };
    add([] {
        Witness witness;  // the parent's, and destroyed there alone
        CHECK_EQ(wait(ends[0], Events::readable).error, Error::none);
        trace += "parent";
    });
    CHECK(step(0_s).value);
    CHECK_EQ(write(ends[1], "x", 1), 1);
    pid_t child = fork_here();
    if (is_child) {
        CHECK_EQ(step(0_s).error, Error::forked);
        CHECK_EQ(destroy_loop(), Error::none);
        CHECK(finished());
        add([] {
            CHECK_EQ(wait(ends[0], Events::readable).error, Error::none);
            CHECK_EQ(sleep_for(1_s), Error::none);
            trace += "child";
        });
        CHECK_EQ(loop(), Error::none);
        CHECK(trace == "child");
        CHECK_EQ(destroy_loop(), Error::none);
        end_child();
    }
    CHECK_EQ(test::status_of(child), 0);
    CHECK_EQ(loop(), Error::none);
    CHECK(trace == "parent");
}

TEST(after_fork_gives_the_child_copies_that_run_on) {
    test::VirtualTime clock;
    REQUIRE(pipe(ends) == 0);
    CHECK_EQ(after_fork(), Error::none);  // the parent, without a loop and with one
    add([] {
        CHECK_EQ(sleep_for(1_s), Error::none);
        trace += "sleeper ";
    });
    add([] {
        CHECK_EQ(wait(ends[0], Events::readable).error, Error::none);
        trace += "waiter ";
    });
    Thread parked = add([] {
        CHECK_EQ(park(), Error::none);
        trace += "parked ";
    });
    int numbers[2];  // where the child tells of its
    REQUIRE(pipe(numbers) == 0);
    add([&] {
        CHECK_EQ(after_fork(), Error::none);
        CHECK_EQ(yield(), Error::none);
        pid_t child = fork_here();
        if (is_child) {
            CHECK_EQ(yield(), Error::forked);
            CHECK_EQ(after_fork(), Error::none);
            CHECK_EQ(yield(), Error::none);
            uint64_t number = copse::random();
            CHECK_EQ(write(numbers[1], &number, sizeof number), 8);
        } else {
            CHECK_EQ(test::status_of(child), 0);
            uint64_t number = copse::random(), childs = number;
            CHECK_EQ(read(numbers[0], &childs, sizeof childs), 8);
            CHECK(number != childs);
        }
        CHECK_EQ(write(ends[1], "x", 1), 1);
        CHECK_EQ(parked.unpark(), Error::none);
        CHECK_EQ(parked.join(), Error::none);
    });
    CHECK_EQ(loop(), Error::none);
    for (const char* each : {"sleeper", "waiter", "parked"})
        CHECK(trace.find(each) != std::string::npos);
    Inspection::check_at_rest();
    if (is_child) end_child();
}

namespace {

// A poller that cannot be had, or not with everything in it.
struct Refusing : test::VirtualTime {
    mutable int open_error = 0, add_error = 0, closed = 0;
    Refusing() {
        poller_open = [](const System& system, Poller** out) {
            int error = self(system).open_error;
            return error ? error : production_system.poller_open(system, out);
        };
        poller_add = [](const System& system, Poller* poller, int fd, uint64_t token) {
            int error = self(system).add_error;
            return error ? error : production_system.poller_add(system, poller, fd, token);
        };
        poller_close = [](const System& system, Poller* poller) {
            ++self(system).closed;
            production_system.poller_close(system, poller);
        };
    }
    static const Refusing& self(const System& system) {
        return static_cast<const Refusing&>(system);
    }
};

}  // namespace

TEST(an_after_fork_that_fails_may_be_tried_again) {
    Refusing clock;
    REQUIRE(pipe(ends) == 0);
    add([] {
        CHECK_EQ(wait(ends[0], Events::readable).error, Error::none);
        trace += "waiter ";
    });
    CHECK(step(0_s).value);
    pid_t child = fork_here();
    if (is_child) {
        clock.open_error = -EMFILE;
        CHECK_EQ(after_fork(), Error::from_errno(EMFILE));
        CHECK_EQ(step(0_s).error, Error::forked);
        clock.open_error = 0;
        for (int error : {ENOMEM, ENOSPC}) {
            clock.add_error = -error;
            CHECK_EQ(after_fork(), Error::from_errno(error));
            CHECK_EQ(step(0_s).error, Error::forked);
        }
        CHECK_EQ(clock.closed, 2);  // the new ones: the old one is still the loop's
        clock.add_error = 0;
        CHECK_EQ(after_fork(), Error::none);
        CHECK_EQ(clock.closed, 3);
        CHECK_EQ(write(ends[1], "x", 1), 1);
        CHECK_EQ(loop(), Error::none);
        CHECK(trace == "waiter ");
        Inspection::check_at_rest();
        end_child();
    }
    CHECK_EQ(test::status_of(child), 0);
    CHECK_EQ(loop(), Error::none);
    CHECK(trace == "waiter ");
}

// Children come and go all the time, and take all they can get; the parent's traffic is the same.
TEST(children_that_do_what_they_like_do_not_disturb_the_parents_traffic) {
    const int children = 30, messages = test::sanitized ? 300 : 3000;
    test::VirtualTime clock;
    int there[2], back[2];
    REQUIRE(pipe(there) == 0 && pipe(back) == 0);
    int64_t sum = 0, echoed = 0;
    add([&] {
        for (int i = 0; i < messages; ++i) {
            CHECK_EQ(write(there[1], &i, sizeof i), 4);
            int got = -1;
            CHECK_EQ(wait(back[0], Events::readable).error, Error::none);
            CHECK_EQ(read(back[0], &got, sizeof got), 4);
            CHECK_EQ(got, i);
            sum += got;
        }
    });
    add([&] {
        for (int i = 0; i < messages; ++i) {
            int got = -1;
            CHECK_EQ(wait(there[0], Events::readable).error, Error::none);
            CHECK_EQ(read(there[0], &got, sizeof got), 4);
            CHECK_EQ(write(back[1], &got, sizeof got), 4);
            ++echoed;
        }
    });
    add([&] {
        for (int i = 0; i < children; ++i) {
            for (int k = 0; k < 7 + i; ++k) CHECK_EQ(yield(), Error::none);
            pid_t child = fork_here();
            if (is_child) {
                (void)wait(there[0], Events::readable, 0_s);
                (void)wait(back[0], Events::readable, 0_s);
                (void)yield();
                return;
            }
            CHECK_EQ(test::status_of(child), 0);
        }
    });
    Error error = loop();
    if (is_child) {
        (void)step(0_s);
        CHECK_EQ(destroy_loop(), Error::none);
        end_child();
    }
    CHECK_EQ(error, Error::none);
    CHECK_EQ(echoed, messages);
    CHECK_EQ(sum, int64_t(messages) * (messages - 1) / 2);
}

// Thread: how threads are added, named, joined, woken, canceled and told apart.
#include "inspection.h"
#include "machine.h"
#include "test.h"
#include "virtual_time.h"

#include <copse/copse.h>

#include <memory>
#include <set>
#include <string>
#include <vector>

using namespace copse;

namespace {

int left;   // objects there are
int moves;  // times one was moved
struct Counted {
    Counted() { ++left; }
    Counted(const Counted&) = delete;
    Counted(Counted&&) { ++left, ++moves; }
    ~Counted() { --left; }
};

std::string trace;

Thread add(auto&& body) {
    Result<Thread> thread = addthread(std::forward<decltype(body)>(body));
    REQUIRE(thread);
    return *thread;
}

}  // namespace

// Adding ------------------------------------------------------------------------------------------

TEST(what_a_thread_is_given_is_moved_in_and_ends_with_it) {
    std::unique_ptr<int> seen;
    auto number = std::make_unique<int>(42);
    auto body = [&, counted = Counted{}](std::unique_ptr<int> given, Counted&&) {
        seen = std::move(given);
        CHECK_EQ(left, 3);  // the thread's two, and what was moved from
    };
    CHECK(addthread(std::move(body), std::move(number), Counted{}));
    CHECK(!number);
    CHECK_EQ(loop(), Error::none);
    REQUIRE(seen);
    CHECK_EQ(*seen, 42);
    CHECK_EQ(left, 1);
}

TEST(a_thread_may_be_a_function_with_copied_arguments) {
    struct Local {
        static void body(std::string words, int& number, const char* more) {
            trace = words + more;
            ++number;
        }
    };
    std::string words = "a";
    int number = 0;
    char more[] = "b";
    CHECK(addthread(Local::body, words, std::ref(number), more));
    words = "changed";
    CHECK_EQ(loop(), Error::none);
    CHECK(trace == "ab");
    CHECK_EQ(number, 1);
}

TEST(a_thread_runs_from_the_next_turn_on_and_not_before) {
    add([] {
        trace += "a";
        add([] { trace += "b"; });
        CHECK(trace == "a");
    });
    CHECK(trace == "");
    CHECK(step(0_s).value);
    CHECK(trace == "a");
    CHECK(step(0_s).value);
    CHECK(trace == "ab");
    CHECK(!step(0_s).value);
    Inspection::check_at_rest();
}

TEST(threads_run_in_the_order_they_were_added) {
    std::string expected;
    for (char c = 'a'; c <= 'z'; ++c) {
        add([c] { trace += c; });
        expected += c;
    }
    CHECK_EQ(loop(), Error::none);
    CHECK(trace == expected);
}

TEST(yield_lets_every_ready_thread_run_first) {
    for (char c : {'a', 'b', 'c'})
        add([c] {
            for (int i = 0; i < 3; ++i) {
                trace += c;
                CHECK_EQ(yield(), Error::none);
            }
        });
    CHECK_EQ(loop(), Error::none);
    CHECK(trace == "abcabcabc");
}

TEST(a_thread_woken_twice_in_a_turn_runs_once) {
    int runs = 0;
    Thread sleeper = add([&] {
        while (park() == Error::none && ++runs < 3) {}
    });
    add([&] {
        for (int i = 0; i < 3; ++i) {
            CHECK_EQ(yield(), Error::none);
            CHECK_EQ(sleeper.unpark(), Error::none);
            CHECK_EQ(sleeper.unpark(), Error::none);
            CHECK_EQ(runs, i);
        }
    });
    CHECK_EQ(loop(), Error::none);
    CHECK_EQ(runs, 3);
}

TEST(a_body_too_large_for_its_stack_is_refused_and_nothing_is_kept) {
    struct Large {
        Counted counted;
        char bytes[40000] = {};
        void operator()() {}
    };
    Result<Thread> refused = addthread({.stack_size = 65536}, Large{});
    CHECK_EQ(refused.error, Error::invalid);
    CHECK(refused->finished());
    CHECK_EQ(left, 0);
    CHECK(addthread({.stack_size = 131072}, Large{}));
    CHECK_EQ(loop(), Error::none);
    CHECK_EQ(left, 0);
    Inspection::check_at_rest();
}

TEST(a_body_finds_itself_aligned_as_it_asks) {
    struct alignas(1024) Aligned {
        size_t number;
        void operator()() {
            CHECK_EQ(uintptr_t(this) % 1024, 0u);
            trace += std::to_string(number);
        }
    };
    for (size_t i = 0; i < 20; ++i) add(Aligned{i});
    CHECK_EQ(loop(), Error::none);
    CHECK(trace == "012345678910111213141516171819");
    struct alignas(32768) Vast {
        void operator()() {}
    };
    static Vast vast;
    CHECK_EQ(addthread(vast).error, Error::invalid);
}

TEST(a_body_that_cannot_be_made_leaves_no_thread) {
    struct Refuses {
        Refuses() = default;
        Refuses(const Refuses&) { throw 7; }
        void operator()() {}
    };
    Refuses body;
    for (int i = 0; i < 3; ++i) {
        bool thrown = false;
        try {
            (void)addthread(body);
        } catch (int) {
            thrown = true;
        }
        CHECK(thrown);
    }
    CHECK(finished());
    CHECK_EQ(Inspection::blocks(), 1u);
    Inspection::check_at_rest();
    add([] { trace = "ran"; });
    CHECK_EQ(loop(), Error::none);
    CHECK(trace == "ran");
}

TEST(a_body_is_destroyed_on_its_own_thread_and_may_park_there) {
    struct Parks {
        bool armed = true;
        Parks() = default;
        Parks(Parks&& other) : armed{other.armed} { other.armed = false; }
        ~Parks() {
            if (!armed) return;
            CHECK(inthread());
            trace += "1";
            CHECK_EQ(yield(), Error::none);
            trace += "3";
        }
        void operator()() {}
    };
    Thread first = add(Parks{});
    add([first] {
        trace += "2";
        CHECK(!first.finished());
    });
    CHECK_EQ(loop(), Error::none);
    CHECK(trace == "123");
}

// Handles and names -------------------------------------------------------------------------------

TEST(self_is_the_running_thread_and_none_outside) {
    CHECK(!inthread());
    CHECK(self() == Thread{});
    Thread first;
    first = add([&] {
        CHECK(inthread());
        CHECK(self() == first);
        CHECK_EQ(yield(), Error::none);
        CHECK(self() == first);
        CHECK(!first.finished());
    });
    CHECK(!inthread());
    CHECK_EQ(loop(), Error::none);
    CHECK(!inthread());
    CHECK(first.finished());
}

TEST(names_are_copied_cut_at_31_bytes_and_gone_with_the_thread) {
    std::string given = "abcdefghijklmnopqrstuvwxyz0123456789";
    Result<Thread> named = addthread({.name = given.c_str()}, [] {
        CHECK(!strcmp(self().name(), "abcdefghijklmnopqrstuvwxyz01234"));
        self().setname("short");
        CHECK(!strcmp(self().name(), "short"));
        self().setname(nullptr);
        CHECK(!strncmp(self().name(), "thread_", 7));
    });
    given.assign(given.size(), '!');
    Thread first = add([] {}), second = add([] {});
    CHECK(!strncmp(first.name(), "thread_", 7));
    CHECK(strcmp(first.name(), second.name()) != 0);
    CHECK_EQ(strlen(named->name()), 31u);
    CHECK_EQ(loop(), Error::none);
    CHECK(!strcmp(named->name(), ""));
    first.setname("nobody");
    CHECK(!strcmp(first.name(), ""));
}

namespace {

// A handle whose thread is over answers so, and disturbs nobody.
void check_that_it_is_finished(Thread thread) {
    CHECK(thread.finished());
    CHECK(!strcmp(thread.name(), ""));
    thread.setname("stray");
    CHECK_EQ(thread.stack_size(), 0u);
    CHECK_EQ(thread.stack_used(), 0u);
    CHECK_EQ(thread.cancel(), Error::none);
    CHECK_EQ(thread.unpark(), Error::destroyed);
    if (inthread()) CHECK_EQ(thread.join(), Error::none);
}

}  // namespace

TEST(no_thread_and_a_finished_thread_answer_alike) {
    check_that_it_is_finished(Thread{});
    CHECK_EQ(Thread{}.id(), 0u);
    Thread first = add([] {});
    CHECK(first.id() != 0);
    CHECK_EQ(loop(), Error::none);
    check_that_it_is_finished(first);
    add([=] {
        check_that_it_is_finished(Thread{});
        check_that_it_is_finished(first);
    });
    CHECK_EQ(loop(), Error::none);
}

TEST(a_handle_never_reaches_the_next_thread_of_its_slot) {
    const size_t times = test::sanitized ? 1u << 12 : 1u << 20;
    std::vector<Thread> old;
    old.reserve(times);
    add([&] {
        for (size_t i = 0; i < times; ++i) {
            Thread next = add([] {});
            if (i) CHECK(next.id() != old.back().id());
            old.push_back(next);
            CHECK_EQ(next.join(), Error::none);
        }
        CHECK_EQ(Inspection::blocks(), 2u);  // one slot, all the time
        bool woken = false;
        Thread last = add([&] {
            CHECK_EQ(park(), Error::none);
            woken = true;
        });
        CHECK_EQ(yield(), Error::none);
        for (Thread each : old) {
            CHECK(each.finished());
            CHECK_EQ(each.unpark(), Error::destroyed);
            CHECK_EQ(each.cancel(), Error::none);
        }
        CHECK_EQ(old.front().join(), Error::none);
        CHECK_EQ(yield(), Error::none);
        CHECK(!woken && !last.finished());
        CHECK_EQ(last.unpark(), Error::none);
        CHECK_EQ(last.join(), Error::none);
        CHECK(woken);
    });
    CHECK_EQ(loop(), Error::none);
}

TEST(ids_are_unique_among_the_living_and_the_dead) {
    std::set<uint64_t> ids;
    const int rounds = test::sanitized ? 10 : 100;
    for (int round = 0; round < rounds; ++round) {
        for (int i = 0; i < 50; ++i) CHECK(ids.insert(add([] {}).id()).second);
        CHECK_EQ(loop(), Error::none);
    }
    CHECK_EQ(Inspection::blocks(), 50u);
}

// Joining -----------------------------------------------------------------------------------------

TEST(join_returns_when_the_thread_has_finished_and_not_before) {
    Thread slow = add([] {
        for (int i = 0; i < 10; ++i) CHECK_EQ(yield(), Error::none);
        trace += "end ";
    });
    add([=] {
        CHECK_EQ(slow.join(), Error::none);
        CHECK(slow.finished());
        trace += "joined";
    });
    CHECK_EQ(loop(), Error::none);
    CHECK(trace == "end joined");
    Inspection::check_at_rest();
}

TEST(any_number_of_threads_join_one_and_return_in_order) {
    Thread slow = add([] { CHECK_EQ(yield(), Error::none); });
    std::vector<int> order;
    for (int i = 0; i < 1000; ++i)
        add([&order, slow, i] {
            CHECK_EQ(slow.join(), Error::none);
            order.push_back(i);
        });
    CHECK_EQ(loop(), Error::none);
    REQUIRE(order.size() == 1000);
    for (int i = 0; i < 1000; ++i) CHECK_EQ(order[size_t(i)], i);
    Inspection::check_at_rest();
}

TEST(a_thread_cannot_join_itself) {
    add([] {
        CHECK_EQ(self().join(), Error::deadlock);
        CHECK_EQ(yield(), Error::none);
    });
    CHECK_EQ(loop(), Error::none);
}

TEST(a_canceled_joiner_leaves_its_thread_alone) {
    Thread slow = add([] {
        CHECK_EQ(park(), Error::none);
        trace += "slow ";
    });
    Thread joiner = add([=] {
        CHECK_EQ(slow.join(), Error::canceled);
        trace += "joiner ";
    });
    Thread other = add([=] {
        CHECK_EQ(slow.join(), Error::none);
        trace += "other";
    });
    add([=] {
        CHECK_EQ(yield(), Error::none);
        CHECK_EQ(joiner.cancel(), Error::none);
        CHECK_EQ(joiner.join(), Error::none);
        CHECK(!slow.finished() && !other.finished());
        Inspection::check();
        CHECK_EQ(slow.unpark(), Error::none);
    });
    CHECK_EQ(loop(), Error::none);
    CHECK(trace == "joiner slow other");
    Inspection::check_at_rest();
}

TEST(calls_that_park_say_so_outside_a_thread) {
    for (int with_loop = 0; with_loop < 2; ++with_loop) {
        CHECK_EQ(yield(), Error::not_a_thread);
        CHECK_EQ(sleep_for(1_s), Error::not_a_thread);
        CHECK_EQ(sleep_for(0_s), Error::not_a_thread);
        CHECK_EQ(sleep_until(now()), Error::not_a_thread);
        CHECK_EQ(park(), Error::not_a_thread);
        CHECK_EQ(Thread{}.join(), Error::not_a_thread);
        CHECK_EQ(wait_for_stop(), Error::not_a_thread);
        CHECK_EQ(wait(0, Events::readable).error, Error::not_a_thread);
        CHECK_EQ(seterrorhandler(nullptr), Error::not_a_thread);
        if (with_loop) CHECK_EQ(Inspection::live(), 1u);
        else add([] {});
    }
}

// Parking and unparking ---------------------------------------------------------------------------

TEST(an_unpark_before_the_park_is_not_lost) {
    add([] {
        CHECK_EQ(self().unpark(), Error::none);
        uint64_t before = status().switches;
        CHECK_EQ(park(), Error::none);
        CHECK_EQ(status().switches, before);  // it did not park
    });
    CHECK_EQ(loop(), Error::none);
}

TEST(unparks_do_not_add_up) {
    Thread sleeper = add([] {
        for (int i = 0; i < 3; ++i) CHECK_EQ(self().unpark(), Error::none);
        CHECK_EQ(park(), Error::none);
        trace += "once ";
        CHECK_EQ(park(), Error::none);
        trace += "twice";
    });
    add([=] {
        CHECK(trace == "once ");
        for (int i = 0; i < 3; ++i) CHECK_EQ(sleeper.unpark(), Error::none);
    });
    CHECK_EQ(loop(), Error::none);
    CHECK(trace == "once twice");
}

TEST(an_unpark_is_kept_for_park_and_ends_no_other_wait) {
    test::VirtualTime clock;
    Thread slow = add([] { CHECK_EQ(sleep_for(2_s), Error::none); });
    Time start = clock.at();
    Thread sleeper = add([&, start] {
        CHECK_EQ(sleep_for(1_s), Error::none);
        CHECK(clock.at() - start == 1_s);
        CHECK_EQ(slow.join(), Error::none);
        CHECK(clock.at() - start == 2_s);
        CHECK_EQ(park(), Error::none);
        CHECK(clock.at() - start == 2_s);
    });
    add([=] {
        CHECK_EQ(sleeper.unpark(), Error::none);
        CHECK_EQ(sleep_for(1500_ms), Error::none);
        CHECK_EQ(sleeper.unpark(), Error::none);
    });
    CHECK_EQ(loop(), Error::none);
}

TEST(an_unpark_kept_by_a_thread_does_not_pass_to_the_next_of_its_slot) {
    add([] { CHECK_EQ(self().unpark(), Error::none); });
    CHECK_EQ(loop(), Error::none);
    seterrorhandler([](Thread, const char*, void*) {}, nullptr, true);
    add([] { CHECK_EQ(park(), Error::canceled); });
    CHECK_EQ(Inspection::blocks(), 1u);
    CHECK_EQ(loop(), Error::deadlock);
    CHECK_EQ(destroy_loop(), Error::none);
}

// Canceling ---------------------------------------------------------------------------------------

namespace {

using Call = Error (*)();
Thread other;  // a thread that lives long
int ends[2];   // of a pipe with nothing in it

struct ParkingCall {
    const char* name;
    Call call;
};
const ParkingCall parking_calls[] = {
    {"yield", [] { return yield(); }},
    {"sleep_for", [] { return sleep_for(1_s); }},
    {"sleep_for nothing", [] { return sleep_for(0_s); }},
    {"sleep_for ever", [] { return sleep_for(never); }},
    {"sleep_until", [] { return sleep_until(now() + 1_s); }},
    {"park", [] { return park(); }},
    {"join", [] { return other.join(); }},
    {"wait_for_stop", [] { return wait_for_stop(); }},
    {"wait", [] { return wait(ends[0], Events::readable).error; }},
    {"wait with a timeout", [] { return wait(ends[0], Events::readable, 1_s).error; }},
};

}  // namespace

TEST(every_call_that_parks_is_ended_by_a_cancellation_and_refuses_ever_after) {
    test::VirtualTime clock;
    REQUIRE(pipe(ends) == 0);
    for (const ParkingCall& first : parking_calls) {
        int64_t start = clock.time;
        other = add([] { CHECK_EQ(park(), Error::none); });
        Thread subject = add([&] {
            Error error = first.call();
            if (error != Error::canceled) fprintf(stderr, "%s:\n", first.name);
            CHECK_EQ(error, Error::canceled);
            for (int again = 0; again < 3; ++again)
                for (const ParkingCall& next : parking_calls) {
                    CHECK_EQ(next.call(), Error::canceled);
                    Inspection::check();
                }
        });
        add([&, subject] {
            CHECK_EQ(subject.cancel(), Error::none);
            CHECK_EQ(subject.join(), Error::none);
            CHECK_EQ(other.unpark(), Error::none);
        });
        CHECK_EQ(loop(), Error::none);
        CHECK_EQ(clock.time, start);  // nobody waited
        Inspection::check_at_rest();
    }
}

TEST(a_thread_canceled_before_it_ran_runs_and_finds_out_when_it_parks) {
    Thread early = add([counted = Counted{}] {
        trace += "ran";
        CHECK_EQ(park(), Error::canceled);
    });
    CHECK_EQ(early.cancel(), Error::none);
    CHECK_EQ(loop(), Error::none);
    CHECK(trace == "ran");
    CHECK_EQ(left, 0);
}

TEST(a_canceled_thread_ends_by_returning) {
    Thread deep;
    deep = add([] {
        Counted outer;
        struct Recursion {
            static Error down(int depth) {
                Counted counted;
                if (depth) return down(depth - 1);
                return park();
            }
        };
        CHECK_EQ(Recursion::down(100), Error::canceled);
        CHECK_EQ(left, 1);
    });
    add([=] {
        CHECK_EQ(left, 102);
        deep.cancel();
    });
    CHECK_EQ(loop(), Error::none);
    CHECK_EQ(left, 0);
}

TEST(a_thread_may_cancel_itself) {
    add([] {
        CHECK_EQ(self().cancel(), Error::none);
        CHECK_EQ(yield(), Error::canceled);
        CHECK_EQ(sleep_for(1_s), Error::canceled);
    });
    CHECK_EQ(loop(), Error::none);
}

TEST(a_thread_canceled_while_ready_is_told_when_it_runs) {
    Thread ready = add([] {
        CHECK_EQ(yield(), Error::canceled);
        trace += "told";
    });
    add([=] { CHECK_EQ(ready.cancel(), Error::none); });
    CHECK_EQ(loop(), Error::none);
    CHECK(trace == "told");
}

// A layer above may have been admitted long before it comes to wait.
TEST(a_wait_that_a_canceled_thread_begins_all_the_same_is_ended) {
    add([] {
        CHECK_EQ(self().cancel(), Error::none);
        CHECK_EQ(Loop::current()->park({.what = "late"}), Error::canceled);
        trace += "ended";
    });
    CHECK_EQ(loop(), Error::none);
    CHECK(trace == "ended");
}

TEST(a_slot_of_a_canceled_thread_is_as_good_as_new) {
    add([] { CHECK_EQ(self().cancel(), Error::none); });
    CHECK_EQ(loop(), Error::none);
    add([] {
        CHECK_EQ(yield(), Error::none);
        trace = "fine";
    });
    CHECK_EQ(loop(), Error::none);
    CHECK_EQ(Inspection::blocks(), 1u);
    CHECK(trace == "fine");
}

TEST(a_thread_that_ignores_its_cancellation_holds_up_nobody_and_is_reported_once) {
    test::VirtualTime clock;
    REQUIRE(pipe(ends) == 0);
    static int reports = 0;
    static Thread subject;
    static int calls = 0;
    seterrorhandler(
        [](Thread thread, const char* what, void*) {
            ++reports;
            CHECK(thread == subject);
            CHECK(!strcmp(what, "ignores its cancellation"));
        },
        nullptr, true);
    for (const ParkingCall& each : parking_calls) {
        reports = calls = 0;
        other = add([] { CHECK_EQ(park(), Error::none); });
        static bool over;
        over = false;
        subject = add([&] {
            while (!over) {
                CHECK_EQ(each.call(), Error::canceled);
                ++calls;
            }
        });
        CHECK_EQ(subject.cancel(), Error::none);
        add([] {
            // Turn about: one call of the stubborn one for each run of anybody else.
            for (int i = 0; i < 5000; ++i) {
                int before = calls;
                CHECK_EQ(yield(), Error::none);
                CHECK(calls <= before + 1);
            }
            over = true;
            CHECK_EQ(other.unpark(), Error::none);
        });
        CHECK_EQ(loop(), Error::none);
        CHECK(calls > 4000);
        CHECK_EQ(reports, 1);
        Inspection::check_at_rest();
    }
}

TEST(many_threads_wait_for_each_other_in_a_long_chain) {
    const int length = test::sanitized ? 1000 : 20000;
    std::vector<Thread> chain;
    int joined = 0;
    for (int i = 0; i < length; ++i)
        chain.push_back(add([&, i] {
            if (i == 0) CHECK_EQ(park(), Error::none);
            else CHECK_EQ(chain[size_t(i) - 1].join(), Error::none);
            CHECK_EQ(joined++, i);
        }));
    add([&] {
        CHECK_EQ(yield(), Error::none);
        CHECK_EQ(chain[0].unpark(), Error::none);
    });
    CHECK_EQ(loop(), Error::none);
    CHECK_EQ(joined, length);
    Inspection::check_at_rest();
}

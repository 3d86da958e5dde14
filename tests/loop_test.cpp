// Loop: how it begins, turns, and ends, and what becomes of its threads.
#include "inspection.h"
#include "machine.h"
#include "test.h"
#include "virtual_time.h"

#include <copse/copse.h>

#include <dirent.h>
#include <map>
#include <pthread.h>
#include <set>
#include <string>
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

struct Reports {
    std::vector<std::string> all;
    std::vector<uint64_t> threads;
    Reports() {
        auto keep = [](Thread thread, const char* what, void* self) {
            static_cast<Reports*>(self)->all.push_back(what);
            static_cast<Reports*>(self)->threads.push_back(thread.id());
        };
        CHECK_EQ(seterrorhandler(keep, this, true), Error::none);
    }
};

int ends[2];  // of a pipe with nothing in it
Thread other;

struct ParkingCall {
    const char* name;
    Error (*call)();
};
const ParkingCall parking_calls[] = {
    {"yield", [] { return yield(); }},
    {"sleep_for", [] { return sleep_for(1000_s); }},
    {"sleep_for ever", [] { return sleep_for(never); }},
    {"park", [] { return park(); }},
    {"join", [] { return other.join(); }},
    {"wait_for_stop", [] { return wait_for_stop(); }},
    {"wait",
     [] {
         int fd = dup(ends[0]);  // a descriptor is one thread's to wait for
         Error error = wait(fd, Events::both, 1000_s).error;
         close(fd);
         return error;
     }},
};

int objects;
struct Counted {
    Counted() { ++objects; }
    Counted(const Counted&) { ++objects; }
    ~Counted() { --objects; }
};

size_t open_descriptors() {
    size_t count = 0;
    DIR* all = opendir("/proc/self/fd");
    if (!all) return 0;
    while (readdir(all)) ++count;
    closedir(all);
    return count;
}

// Keeps account of the memory that is asked for and given back.
struct Account : test::VirtualTime {
    mutable std::map<void*, size_t> allocated, mapped;
    Account() {
        allocate = [](const System& system, size_t size) {
            void* memory = production_system.allocate(system, size);
            self(system).allocated[memory] = size;
            return memory;
        };
        release = [](const System& system, void* memory, size_t size) {
            CHECK_EQ(self(system).allocated[memory], size);
            self(system).allocated.erase(memory);
            production_system.release(system, memory, size);
        };
        map = [](const System& system, size_t size) {
            void* memory = production_system.map(system, size);
            self(system).mapped[memory] = size;
            return memory;
        };
        unmap = [](const System& system, void* memory, size_t size) {
            CHECK_EQ(self(system).mapped[memory], size);
            self(system).mapped.erase(memory);
            production_system.unmap(system, memory, size);
        };
    }
    ~Account() { (void)destroy_loop(); }  // while there still is an account
    static const Account& self(const System& system) { return static_cast<const Account&>(system); }
};

void* run_os_thread(void* (*body)(void*), void* argument) {
    pthread_t thread;
    REQUIRE(pthread_create(&thread, nullptr, body, argument) == 0);
    void* result = nullptr;
    REQUIRE(pthread_join(thread, &result) == 0);
    return result;
}

}  // namespace

// Running -----------------------------------------------------------------------------------------

TEST(a_loop_with_nothing_to_do_returns_at_once_and_again) {
    for (int i = 0; i < 3; ++i) CHECK_EQ(loop(), Error::none);
    CHECK(!step().value);
    CHECK_EQ(step().error, Error::none);
    CHECK(finished() && !running() && !stopping());
}

TEST(a_loop_returns_when_everybody_has_finished) {
    test::VirtualTime clock;
    for (int round = 0; round < 3; ++round) {
        for (int i = 0; i < 10; ++i)
            add([i] {
                CHECK_EQ(sleep_for(i * 1_ms), Error::none);
                add([] { CHECK_EQ(sleep_for(1_ms), Error::none); });
            });
        CHECK(!finished());
        CHECK_EQ(loop(), Error::none);
        CHECK(finished());
        CHECK_EQ(Inspection::live(), 0u);
        Inspection::check_at_rest();
    }
}

TEST(a_loop_may_begin_with_a_function) {
    CHECK_EQ(loop([] {
                 CHECK(!strcmp(self().name(), "copse_initializer"));
                 CHECK(running());
                 CHECK(!finished());
                 trace = "ran";
             }),
             Error::none);
    CHECK(trace == "ran");
    CHECK(!running());
}

TEST(a_step_waits_no_longer_than_told_and_says_whether_anything_ran) {
    test::VirtualTime clock;
    add([] { CHECK_EQ(sleep_for(10_s), Error::none); });
    Time start = clock.at();
    CHECK(step(1_s).value);
    CHECK(clock.at() == start);
    Result<bool> idle = step(1_s);
    CHECK(!idle.value && !idle.error);
    CHECK(clock.at() - start == 1_s);
    // A wait cut short is neither the end of the step nor its beginning.
    clock.interrupts = 300'000'000;
    CHECK(!step(2_s).value);
    CHECK(clock.at() - start == 3_s);
    CHECK(!step(0_s).value);
    CHECK(!step(-1_s).value);
    CHECK(clock.at() - start == 3_s);
    CHECK(!running());
    CHECK(step().value);
    CHECK(clock.at() - start == 10_s);
    CHECK(!step().value);
    Inspection::check_at_rest();
}

TEST(threads_may_be_added_between_steps_and_by_anybody) {
    test::VirtualTime clock;
    CHECK(!step(0_s).value);
    add([] { trace += "a"; });
    CHECK(step(0_s).value);
    add([] {
        add([] { trace += "c"; });
        trace += "b";
    });
    CHECK_EQ(loop(), Error::none);
    CHECK(trace == "abc");
}

namespace {

void check_that_it_is_running_already() {
    uint64_t turns = status().turns, switches = status().switches;
    size_t live = Inspection::live();
    CHECK_EQ(loop(), Error::already_running);
    CHECK_EQ(loop(1_s), Error::already_running);
    CHECK_EQ(loop([] { CHECK(false); }), Error::already_running);
    CHECK_EQ(step().error, Error::already_running);
    CHECK_EQ(step(0_s).error, Error::already_running);
    CHECK(!step(0_s).value);
    CHECK_EQ(destroy_loop(), Error::already_running);
    CHECK_EQ(status().turns, turns);
    CHECK_EQ(status().switches, switches);
    CHECK_EQ(Inspection::live(), live);
    Inspection::check();
    trace += "checked ";
}

struct ChecksAtItsEnd {
    ~ChecksAtItsEnd() { check_that_it_is_running_already(); }
};

}  // namespace

TEST(a_loop_within_the_loop_is_refused_and_changes_nothing) {
    static Local<ChecksAtItsEnd> local;
    auto everywhere = [] {
        auto handler = [](Thread, const char*, void*) { check_that_it_is_running_already(); };
        CHECK_EQ(seterrorhandler(handler), Error::none);
        ChecksAtItsEnd ends_here;
        (void)local.get();
        check_that_it_is_running_already();
        throw 5;
    };
    add(everywhere);
    CHECK_EQ(loop(), Error::none);
    CHECK(trace == "checked checked checked checked ");
    add(everywhere);
    trace = "";
    CHECK(step().value);
    CHECK(trace == "checked checked checked checked ");
    Inspection::check_at_rest();
}

TEST(a_loop_within_the_report_of_a_deadlock_or_of_the_loops_end_is_refused) {
    auto handler = [](Thread, const char*, void*) { check_that_it_is_running_already(); };
    CHECK_EQ(seterrorhandler(handler, nullptr, true), Error::none);
    add([] { (void)park(); });
    CHECK_EQ(loop(), Error::deadlock);
    CHECK(trace == "checked ");
    add([] {
        for (;;) (void)park();
    });
    CHECK_EQ(destroy_loop(), Error::deadlock);
    CHECK(trace == "checked checked ");
}

// Deadlock ----------------------------------------------------------------------------------------

TEST(a_deadlock_is_returned_and_told_with_who_waits_for_what) {
    test::VirtualTime clock;
    Reports reports;
    Result<Thread> first = addthread({.name = "first"}, [] {
        CHECK_EQ(park(), Error::none);
        trace += "first ";
    });
    addthread({.name = "second"}, [&] {
        CHECK_EQ(first->join(), Error::none);
        trace += "second ";
    });
    addthread({.name = "third"}, [] { CHECK_EQ(sleep_for(1_s), Error::none); });
    CHECK_EQ(loop(), Error::deadlock);
    REQUIRE(reports.all.size() == 1);
    CHECK_EQ(reports.threads[0], 0u);
    const std::string& report = reports.all[0];
    CHECK(report.find("deadlock") == 0);
    CHECK(report.find("first in park for 1000 ms") != std::string::npos);
    CHECK(report.find("second in join for 1000 ms") != std::string::npos);
    CHECK(report.find("third") == std::string::npos);
    CHECK(finished());
    CHECK_EQ(Inspection::live(), 2u);
    // They stay parked, and go on when somebody has found the way out.
    CHECK_EQ(first->unpark(), Error::none);
    CHECK_EQ(loop(), Error::none);
    CHECK(trace == "first second ");
    CHECK_EQ(reports.all.size(), 1u);
}

TEST(a_report_of_a_deadlock_of_thousands_is_cut_not_spilt) {
    Reports reports;
    for (int i = 0; i < 3000; ++i) add([] { (void)park(); });
    CHECK_EQ(loop(), Error::deadlock);
    REQUIRE(reports.all.size() == 1);
    CHECK(reports.all[0].size() > 1000 && reports.all[0].size() < 10000);
    CHECK_EQ(destroy_loop(), Error::none);
}

TEST(threads_that_something_can_still_wake_are_no_deadlock) {
    test::VirtualTime clock;
    Reports reports;
    REQUIRE(pipe(ends) == 0);
    Thread sleeper = add([] { CHECK_EQ(park(), Error::none); });
    add([=] {
        CHECK_EQ(wait(ends[0], Events::readable).error, Error::none);
        CHECK_EQ(sleeper.unpark(), Error::none);
    });
    clock.meanwhile = [](int64_t) { CHECK_EQ(write(ends[1], "x", 1), 1); };
    CHECK_EQ(loop(), Error::none);
    CHECK(reports.all.empty());
}

// Stopping ----------------------------------------------------------------------------------------

TEST(who_waits_for_the_stop_is_woken_by_it) {
    test::VirtualTime clock;
    for (int i = 0; i < 3; ++i)
        add([i] {
            CHECK(!stopping());
            CHECK_EQ(wait_for_stop(), Error::none);
            CHECK(stopping());
            CHECK_EQ(wait_for_stop(), Error::none);  // again: at once
            trace += char('0' + i);
        });
    add([] {
        CHECK_EQ(sleep_for(1_s), Error::none);
        CHECK(trace == "");
        stop();
        stop();
        CHECK(trace == "");  // it does not park
        CHECK_EQ(sleep_for(1_s), Error::none);
        CHECK(trace == "012");
        CHECK(stopping());
    });
    CHECK_EQ(loop(), Error::none);
    CHECK(!stopping());
    Inspection::check_at_rest();
}

TEST(the_stop_comes_by_itself_when_nothing_else_is_left_to_do) {
    test::VirtualTime clock;
    add([] {
        CHECK_EQ(wait_for_stop(), Error::none);
        CHECK(trace == "worked ");
        trace += "stopped ";
        CHECK_EQ(sleep_for(1_s), Error::none);  // an end may take its time
        add([] { trace += "last"; });
    });
    add([] {
        CHECK_EQ(sleep_for(1_s), Error::none);
        trace += "worked ";
    });
    CHECK_EQ(loop(), Error::none);
    CHECK(trace == "worked stopped last");
    CHECK(!stopping());
}

TEST(a_stop_before_the_loop_is_not_forgotten) {
    CHECK(!step().value);  // now there is a loop
    stop();
    CHECK(stopping());
    add([] { CHECK_EQ(wait_for_stop(), Error::none); });
    CHECK_EQ(loop(), Error::none);
    CHECK(!stopping());
}

TEST(steps_alone_do_not_stop_anybody) {
    Thread patient = add([] { CHECK_EQ(wait_for_stop(), Error::none); });
    CHECK(step().value);
    CHECK(finished());
    CHECK(!step().value);
    CHECK(!patient.finished());
    stop();
    CHECK(step().value);
    CHECK(patient.finished());
}

TEST(everybody_is_canceled_by_cancelall_and_the_next_loop_works) {
    test::VirtualTime clock;
    REQUIRE(pipe(ends) == 0);
    for (bool from_inside : {false, true}) {
        other = add([] { CHECK_EQ(park(), Error::canceled); });
        for (const ParkingCall& each : parking_calls)
            add([&, counted = Counted{}] {
                // Whoever was ready is told at its next call.
                while (each.call() != Error::canceled) {}
                trace += "c";
            });
        trace = "";
        if (from_inside) {
            add([] {
                CHECK_EQ(sleep_for(1_ms), Error::none);
                cancelall();
                CHECK_EQ(yield(), Error::canceled);
            });
            clock.tick = 1000;
        } else {
            CHECK(step().value);
            cancelall();
        }
        CHECK_EQ(loop(), Error::none);
        CHECK_EQ(trace.size(), std::size(parking_calls));
        CHECK_EQ(objects, 0);
        CHECK(!stopping());
        Inspection::check_at_rest();
        add([] { trace = "next"; });
        CHECK_EQ(loop(), Error::none);
        CHECK(trace == "next");
    }
}

// Chance ------------------------------------------------------------------------------------------

namespace {

// A table that chooses: who runs next, and which event comes first.
struct Choosing : test::VirtualTime {
    mutable uint64_t state;
    mutable size_t choices = 0;
    explicit Choosing(uint64_t seed) : state{seed} {
        choose = [](const System& system, Choice, uint32_t n) {
            CHECK(n > 1);
            return of(system).one_of(n);
        };
        choose_thread = [](const System& system, const Candidates& ready) {
            std::set<uint64_t> different;
            for (uint32_t i = 0; i < ready.count; ++i)
                different.insert(ready.identity(ready, i));
            CHECK_EQ(different.size(), ready.count);
            return of(system).one_of(ready.count);
        };
    }
    static const Choosing& of(const System& s) { return static_cast<const Choosing&>(s); }
    uint32_t one_of(uint32_t n) const {
        ++choices;
        state = state * 6364136223846793005u + 1442695040888963407u;
        return uint32_t((state >> 33) % n);
    }
};

// What twenty threads do that wait for each other in every way.
std::string traffic_of(uint64_t seed) {
    Choosing system{seed};
    trace = "";
    int pipes[3][2];
    for (auto& each : pipes) REQUIRE(pipe(each) == 0);
    std::vector<Thread> threads;
    for (size_t i = 0; i < 20; ++i)
        threads.push_back(add([&, i] {
            for (size_t k = 0; k < 5; ++k) {
                trace += char('a' + i);
                switch ((i + k) % 5) {
                case 0: CHECK_EQ(yield(), Error::none); break;
                case 1: CHECK_EQ(sleep_for(int64_t(k + 1) * 1_ns), Error::none); break;
                case 2: {
                    Timeout scope{100_ns};
                    (void)threads[(i + 7) % threads.size()].join();
                    break;
                }
                case 3: {
                    Timeout scope{10_ns};
                    (void)park();
                    break;
                }
                case 4:
                    (void)threads[(i + 3) % threads.size()].unpark();
                    CHECK_EQ(write(pipes[k % 3][1], "x", 1), 1);
                    break;
                }
                Inspection::check();
            }
        }));
    for (auto& each : pipes)
        add([&] {
            CHECK_EQ(wait(each[0], Events::readable).error, Error::none);
            trace += '!';
        });
    CHECK_EQ(loop(), Error::none);
    CHECK(system.choices > 20);
    Inspection::check_at_rest();
    for (auto& each : pipes) close(each[0]), close(each[1]);
    return trace;
}

}  // namespace

TEST(whoever_a_table_chooses_to_run_next_all_come_to_their_end) {
    std::string first = traffic_of(1);
    CHECK_EQ(first.size(), 20u * 5 + 3);
    CHECK(traffic_of(1) == first);  // the same choices, the same run
    int others = 0;
    for (uint64_t seed = 2; seed < 50; ++seed) {
        std::string other = traffic_of(seed);
        CHECK_EQ(other.size(), first.size());
        others += other != first;
    }
    CHECK(others > 40);
}

// Taking the loop down ----------------------------------------------------------------------------

TEST(a_loop_is_taken_down_with_all_its_threads_whatever_they_wait_for) {
    REQUIRE(pipe(ends) == 0);
    static Local<Counted> local;
    size_t descriptors = open_descriptors();
    Account account;
    Reports reports;
    for (const ParkingCall& each : parking_calls) {
        // Not yet run, in the middle of the call, and after a few turns.
        for (int steps : {0, 1, 5}) {
            other = add([counted = Counted{}] { (void)park(); });
            for (int i = 0; i < 10; ++i)
                add([&, in_body = Counted{}] {
                    Counted on_stack;
                    (void)local.get();
                    Error error = Error::none;
                    while (!error) error = each.call();
                    CHECK_EQ(error, Error::canceled);
                    ++objects;  // was here
                });
            for (int i = 0; i < steps; ++i) CHECK_EQ(step(0_s).error, Error::none);
            Inspection::check();
            CHECK_EQ(destroy_loop(), Error::none);
            CHECK_EQ(objects, 10);
            objects = 0;
            CHECK(account.mapped.empty());
            CHECK(account.allocated.empty());
            CHECK_EQ(open_descriptors(), descriptors);
        }
    }
    CHECK(reports.all.empty());
    CHECK_EQ(destroy_loop(), Error::none);  // nothing there
}

TEST(a_loop_may_be_taken_down_after_any_number_of_steps) {
    REQUIRE(pipe(ends) == 0);
    size_t descriptors = open_descriptors();
    static Local<Counted> local;
    const int stride = test::thread_sanitizer ? 10 : 1;  // threads are dear there
    for (int steps = 0; steps < 200; steps += stride) {
        Account account;
        other = add([] { (void)park(); });
        for (size_t i = 0; i < 20; ++i)
            add([i, counted = Counted{}] {
                for (size_t k = i;; ++k) {
                    Counted on_stack;
                    Timeout scope{Duration::nanoseconds(int64_t(k % 7) * 1'000'000 + 1)};
                    if (k % 3 == 0) (void)local.get();
                    if (k % 11 == 0) add([more = Counted{}] { (void)sleep_for(5_ms); });
                    Error error = parking_calls[k % std::size(parking_calls)].call();
                    if (error == Error::canceled) break;
                }
            });
        for (int i = 0; i < steps; ++i) CHECK_EQ(step(1_ms).error, Error::none);
        CHECK_EQ(destroy_loop(), Error::none);
        CHECK_EQ(objects, 0);
        CHECK(account.mapped.empty());
        CHECK(account.allocated.empty());
    }
    CHECK_EQ(open_descriptors(), descriptors);
}

TEST(a_loop_taken_down_leaves_room_for_the_next) {
    add([] { (void)park(); });
    Thread old = add([] { (void)park(); });
    CHECK(step().value);
    CHECK_EQ(destroy_loop(), Error::none);
    CHECK(old.finished());
    CHECK_EQ(old.unpark(), Error::destroyed);
    CHECK_EQ(status().turns, 0u);
    add([] { trace = "new"; });
    Thread young = add([] {});
    CHECK(old != young);
    CHECK(old.finished());
    CHECK_EQ(loop(), Error::none);
    CHECK(trace == "new");
}

TEST(threads_added_while_the_loop_goes_down_go_with_it) {
    struct Adds {
        int depth;
        explicit Adds(int left) : depth{left} { ++objects; }
        ~Adds() {
            --objects;
            if (depth > 0)
                add([left = depth - 1] {
                    Adds next{left};
                    trace += "x";
                    CHECK_EQ(park(), Error::canceled);
                    CHECK_EQ(sleep_for(1000_s), Error::canceled);
                });
        }
    };
    test::VirtualTime clock;
    add([] {
        Adds first{10};
        (void)park();
    });
    CHECK(step().value);
    CHECK_EQ(destroy_loop(), Error::none);
    CHECK(trace == "xxxxxxxxxx");
    CHECK_EQ(objects, 0);
}

TEST(a_thread_that_will_not_end_is_named_once_and_left_behind) {
    size_t descriptors = open_descriptors();
    test::VirtualTime clock;
    for (int round = 0; round < 3; ++round) {
        Reports reports;
        Result<Thread> stubborn = addthread({.name = "stubborn"}, [counted = Counted{}] {
            for (;;) (void)park();
        });
        add([counted = Counted{}] { (void)park(); });
        CHECK(step().value);
        CHECK_EQ(destroy_loop(), Error::deadlock);
        REQUIRE(reports.all.size() == 1);
        CHECK(reports.all[0] == "ignores its cancellation");
        CHECK_EQ(reports.threads[0], stubborn->id());
        CHECK_EQ(objects, round + 1);  // its own, which is nobody's any more
        CHECK(stubborn->finished());
        CHECK_EQ(open_descriptors(), descriptors);
        add([] { trace += "next"; });
        CHECK_EQ(loop(), Error::none);
    }
    CHECK(trace == "nextnextnext");
}

// OS threads --------------------------------------------------------------------------------------

TEST(every_os_thread_has_a_loop_of_its_own_that_ends_with_it) {
    size_t descriptors = open_descriptors();
    Thread mine = add([] { (void)park(); });
    CHECK(step().value);
    for (int i = 0; i < 3; ++i) {
        void* result = run_os_thread(
            [](void* context) -> void* {
                Thread foreign = *static_cast<Thread*>(context);
                CHECK(foreign.finished());
                CHECK_EQ(foreign.unpark(), Error::destroyed);
                CHECK_EQ(foreign.cancel(), Error::none);
                CHECK_EQ(yield(), Error::not_a_thread);
                int sum = 0;
                for (int k = 1; k <= 100; ++k)
                    add([&sum, k] {
                        CHECK_EQ(sleep_for(Duration::nanoseconds(k)), Error::none);
                        CHECK_EQ(yield(), Error::none);
                        sum += k;
                    });
                CHECK(foreign.finished());
                CHECK_EQ(loop(), Error::none);
                // One that is parked when the OS thread ends.
                add([counted = Counted{}] {
                    Counted on_stack;
                    CHECK_EQ(park(), Error::canceled);
                });
                CHECK(step().value);
                CHECK_EQ(objects, 2);
                return reinterpret_cast<void*>(intptr_t(sum));
            },
            &mine);
        CHECK_EQ(intptr_t(result), 5050);
        CHECK_EQ(objects, 0);
    }
    CHECK(!mine.finished());
    CHECK_EQ(mine.unpark(), Error::none);
    CHECK_EQ(loop(), Error::none);
    CHECK_EQ(destroy_loop(), Error::none);
    CHECK_EQ(open_descriptors(), descriptors);
}

TEST(loops_of_several_os_threads_run_at_once) {
    const int rounds = test::sanitized ? 200 : 2000;
    static int wanted;
    wanted = rounds;
    auto body = [](void*) -> void* {
        std::vector<Thread> ring;
        long sum = 0;
        for (size_t i = 0; i < 10; ++i)
            ring.push_back(*addthread([&, i] {
                for (int k = 0; k < wanted; ++k) {
                    sum += k;
                    (void)ring[(i + 1) % 10].unpark();
                    CHECK_EQ(yield(), Error::none);
                    if (k % 50 == 0) {
                        Timeout scope{1_us};
                        (void)sleep_for(Duration::nanoseconds(k % 7));
                    }
                }
            }));
        CHECK_EQ(loop(), Error::none);
        Inspection::check_at_rest();
        return reinterpret_cast<void*>(sum);
    };
    pthread_t threads[4];
    for (pthread_t& each : threads) REQUIRE(pthread_create(&each, nullptr, body, nullptr) == 0);
    for (pthread_t each : threads) {
        void* sum = nullptr;
        REQUIRE(pthread_join(each, &sum) == 0);
        CHECK_EQ(long(sum), 10l * rounds * (rounds - 1) / 2);
    }
}

TEST(a_thread_local_that_outlives_the_loop_may_make_another) {
    static bool ran;
    run_os_thread(
        [](void*) -> void* {
            struct Late {
                ~Late() {
                    add([] { ran = true; });
                    CHECK_EQ(loop(), Error::none);
                }
            };
            static thread_local Late late;
            (void)&late;
            add([] {});
            CHECK_EQ(loop(), Error::none);
            return nullptr;
        },
        nullptr);
    CHECK(ran);
}

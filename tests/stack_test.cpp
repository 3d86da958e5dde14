// Stacks: how large they are, what a thread costs, and what becomes of them afterwards.
#include "child.h"
#include "inspection.h"
#include "machine.h"
#include "test.h"
#include "virtual_time.h"

#include <copse/copse.h>

#include <fcntl.h>
#include <set>
#include <signal.h>
#include <string>
#include <sys/resource.h>
#include <vector>

using namespace copse;

namespace {

// Counts what the loop asks of memory.
struct Counting : test::VirtualTime {
    mutable size_t allocations = 0, maps = 0, discards = 0;
    Counting() {
        allocate = [](const System& system, size_t size) {
            ++self(system).allocations;
            return production_system.allocate(system, size);
        };
        map = [](const System& system, size_t size) {
            ++self(system).maps;
            return production_system.map(system, size);
        };
        discard = [](const System& system, void* memory, size_t size) {
            ++self(system).discards;
            production_system.discard(system, memory, size);
        };
    }
    size_t asked() const { return allocations + maps; }

  private:
    static const Counting& self(const System& system) {
        return static_cast<const Counting&>(system);
    }
};

// A line of /proc/self/status, in bytes; 0 where there is none.
size_t memory(const char* name) {
    FILE* file = fopen("/proc/self/status", "r");
    if (!file) return 0;
    char line[256];
    size_t kilobytes = 0, length = strlen(name);
    while (fgets(line, sizeof line, file))
        if (!strncmp(line, name, length) && line[length] == ':')
            kilobytes = strtoul(line + length + 1, nullptr, 10);
    fclose(file);
    return kilobytes * 1024;
}

size_t mappings() {
    FILE* file = fopen("/proc/self/maps", "r");
    if (!file) return 0;
    size_t lines = 0;
    for (int c; (c = getc(file)) != EOF;) lines += c == '\n';
    fclose(file);
    return lines;
}

// Uses so much of the calling thread's stack, and calls body at the bottom of it.
[[gnu::noinline]] void with_stack_used(size_t size, void (*body)()) {
    char* room = static_cast<char*>(__builtin_alloca(size));
    for (size_t at = size; at > 0;) {
        at = at > 256 ? at - 256 : 0;
        room[at] = 1;
    }
    __asm__ volatile("" : : "r"(room) : "memory");
    body();
    __asm__ volatile("" : : "r"(room) : "memory");
}

}  // namespace

// Sizes -------------------------------------------------------------------------------------------

TEST(a_stack_has_at_least_the_size_asked_for) {
    struct {
        size_t asked, given;
    } const sizes[] = {{0, 65536},     {1, 16384},     {16384, 16384},     {16385, 32768},
                       {65536, 65536}, {65537, 131072}, {1 << 20, 1 << 20}, {5 << 20, 8 << 20}};
    for (const auto& each : sizes) {
        Result<Thread> thread = addthread({.stack_size = each.asked}, [each] {
            CHECK_EQ(self().stack_size(), each.given);
            // All but what the frames here take.
            if (each.given >= 65536) with_stack_used(each.given - 12 * 1024, [] {});
        });
        REQUIRE(thread);
        CHECK_EQ(thread->stack_size(), each.given);
        CHECK_EQ(loop(), Error::none);
        CHECK_EQ(thread->stack_size(), 0u);
    }
}

TEST(a_stack_too_large_is_refused) {
    for (size_t size : {(size_t{1} << 30) + 1, SIZE_MAX / 2, SIZE_MAX})
        CHECK_EQ(addthread({.stack_size = size}, [] {}).error, Error::invalid);
    CHECK_EQ(loop(), Error::none);
    CHECK_EQ(Inspection::blocks(), 0u);
}

TEST(the_deepest_use_of_a_stack_is_known) {
    bool precise = true;
    addthread([&] {
        size_t before = self().stack_used();
        precise = before < self().stack_size();
        if (!precise) return;
        CHECK(before > 0 && before < 16384);
        with_stack_used(30000, [] { CHECK(self().stack_used() >= 30000); });
        size_t deepest = self().stack_used();
        CHECK(deepest >= 30000 && deepest < 45000);
        CHECK_EQ(yield(), Error::none);
        CHECK_EQ(self().stack_used(), deepest);
    });
    CHECK_EQ(loop(), Error::none);
    if (!precise) test::skip("this system cannot tell which pages are in memory");
}

TEST(the_use_of_a_stack_with_a_painted_end_is_known_too) {
    test::VirtualTime clock;
    clock.guard = [](const System&, void*, size_t, Guard) { return -ENOSYS; };
    addthread([] {
        size_t before = self().stack_used();
        CHECK(before > 0 && before < 16384);
        with_stack_used(30000, [] {});
        size_t deepest = self().stack_used();
        CHECK(deepest >= 30000 && deepest < 45000);
    });
    CHECK_EQ(loop(), Error::none);
    CHECK(!strcmp(status().guard, "canary"));
}

namespace {

// What a thread may well ask of the C library and the C++ runtime.
void use_libraries() {
    static int numbers[1000];
    for (int i = 0; i < 1000; ++i) numbers[i] = (i * 7919) % 1000;
    qsort(numbers, 1000, sizeof(int), [](const void* a, const void* b) {
        return *static_cast<const int*>(a) - *static_cast<const int*>(b);
    });
    for (int i = 0; i < 1000; ++i) CHECK_EQ(numbers[i], i);
    char text[40];
    CHECK_EQ(snprintf(text, sizeof text, "%.30f", 1.0 / 3), 32);
    CHECK(!strncmp(text, "0.3333333333333333", 18));
    CHECK_EQ(yield(), Error::none);
    try {
        throw std::string("thrown");
    } catch (const std::string& words) {
        CHECK(words == "thrown");
    }
}

// 20 KiB of wide characters on the stack, in some C libraries.
void print_five_thousand_digits() {
    static char text[6000];
    CHECK_EQ(snprintf(text, sizeof text, "%.5000f", 1.0 / 3), 5002);
    CHECK(!strncmp(text, "0.3333333333333333", 18));
}

}  // namespace

TEST(the_smallest_stack_is_enough_for_modest_use_of_the_libraries) {
    if (test::sanitized) test::skip("sanitizers' frames are larger");
    CHECK(addthread({.stack_size = 16384}, use_libraries));
    CHECK_EQ(loop(), Error::none);
}

TEST(the_default_stack_is_enough_for_heavy_use_of_the_libraries) {
    CHECK(addthread(use_libraries));
    CHECK(addthread(print_five_thousand_digits));
    CHECK_EQ(loop(), Error::none);
}

TEST(what_is_too_much_for_the_smallest_stack_is_a_named_trap) {
    if (test::sanitized) test::skip("sanitizers die in a way of their own");
    test::Ended ended = test::in_child([] {
        CHECK(addthread({.name = "tiny", .stack_size = 16384}, print_five_thousand_digits));
        CHECK_EQ(loop(), Error::none);
    });
    CHECK(ended.well() || (ended.signal() == SIGSEGV &&
                           ended.mentions("stack overflow in thread \"tiny\"")));
}

namespace {

volatile sig_atomic_t signals;
void use_four_kilobytes(int) {
    char room[4096];
    memset(room, 1, sizeof room);
    __asm__ volatile("" : : "r"(room) : "memory");
    signals = signals + 1;
}

}  // namespace

TEST(a_signal_handler_of_four_kilobytes_fits_a_stack_nine_tenths_full) {
    const int times = test::sanitized || test::emulated() ? 2000 : 100'000;
    struct sigaction action{};
    action.sa_handler = use_four_kilobytes;
    sigaction(SIGUSR1, &action, nullptr);
    static int left;
    left = times;
    for (int i = 0; i < 4; ++i)
        CHECK(addthread({.stack_size = 128 * 1024}, [] {
            with_stack_used(128 * 1024 / 10 * 9, [] {
                while (left > 0) {
                    --left;
                    raise(SIGUSR1);
                    CHECK_EQ(yield(), Error::none);
                }
            });
        }));
    CHECK_EQ(loop(), Error::none);
    CHECK_EQ(signals, times);
}

// Guards ------------------------------------------------------------------------------------------

TEST(the_best_guard_that_can_be_had_is_used_and_told) {
    struct Choosy : test::VirtualTime {
        bool kernel = true, mprotect = true;
        Choosy() {
            guard = [](const System& system, void* memory, size_t size, Guard kind) {
                auto& self = static_cast<const Choosy&>(system);
                bool may = kind == Guard::kernel ? self.kernel : self.mprotect;
                return may ? 0 : -ENOSYS;
                (void)memory, (void)size;
            };
        }
    };
    for (int which = 0; which < 3; ++which) {
        Choosy system;
        system.kernel = which == 0;
        system.mprotect = which == 1;
        Thread thread = *addthread([] {});
        const char* names[] = {"kernel guard", "mprotect", "canary"};
        CHECK(!strcmp(status().guard, names[which]));
        CHECK(Inspection::guard_of(thread) == (which == 0   ? Guard::kernel
                                               : which == 1 ? Guard::mprotect
                                                            : Guard::canary));
        CHECK_EQ(loop(), Error::none);
    }
}

TEST(a_guard_lies_below_every_stack_and_stacks_do_not_overlap) {
    struct Noting : test::VirtualTime {
        mutable std::set<std::pair<char*, size_t>> guards;
        Noting() {
            guard = [](const System& system, void* memory, size_t size, Guard) {
                auto& self = static_cast<const Noting&>(system);
                self.guards.insert({static_cast<char*>(memory), size});
                return 0;
            };
        }
    };
    Noting system;
    std::set<std::pair<char*, char*>> stacks;
    for (size_t size : {16384, 65536, 131072})
        for (int i = 0; i < 100; ++i) {
            Result<Thread> thread = addthread({.stack_size = size}, [] {});
            REQUIRE(thread);
            Stack stack = Inspection::stack_of(*thread);
            CHECK_EQ(stack.size(), size);
            CHECK(system.guards.count({stack.base - Stacks::guard_size, Stacks::guard_size}));
            stacks.insert({stack.base - Stacks::guard_size, stack.top()});
        }
    CHECK_EQ(stacks.size(), 300u);
    char* end = nullptr;
    for (const auto& [from, to] : stacks) {
        CHECK(from >= end);
        end = to;
    }
    CHECK_EQ(loop(), Error::none);
}

// Cost --------------------------------------------------------------------------------------------

TEST(spawning_where_a_thread_has_ended_asks_for_no_memory) {
    Counting system;
    addthread([&] {
        for (int i = 0; i < 100; ++i) addthread([] {});
        CHECK_EQ(yield(), Error::none);
        CHECK_EQ(yield(), Error::none);
        size_t before = system.asked();
        for (int round = 0; round < 20; ++round) {
            for (int i = 0; i < 100; ++i) CHECK(addthread([] { CHECK_EQ(yield(), Error::none); }));
            for (int i = 0; i < 3; ++i) CHECK_EQ(yield(), Error::none);
        }
        CHECK_EQ(system.asked(), before);
        CHECK_EQ(system.discards, 0u);
    });
    CHECK_EQ(loop(), Error::none);
    CHECK_EQ(Inspection::blocks(), 101u);
}

TEST(parking_and_waking_ask_for_no_memory) {
    Counting system;
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    addthread([&] {
        auto round = [&] {
            Thread parked = *addthread([] { CHECK_EQ(park(), Error::none); });
            Thread canceled = *addthread([] { CHECK_EQ(sleep_for(100_s), Error::canceled); });
            Thread waiting = *addthread(
                [&] { CHECK_EQ(wait(ends[0], Events::readable, 100_s).error, Error::none); });
            std::vector<Thread> joiners;
            joiners.reserve(50);
            for (int i = 0; i < 50; ++i)
                joiners.push_back(*addthread([=] {
                    Timeout scope{50_s};
                    CHECK_EQ(parked.join(), Error::none);
                }));
            CHECK_EQ(yield(), Error::none);
            size_t before = system.asked();
            CHECK_EQ(parked.unpark(), Error::none);
            CHECK_EQ(canceled.cancel(), Error::none);
            CHECK_EQ(write(ends[1], "x", 1), 1);
            CHECK_EQ(waiting.join(), Error::none);
            for (Thread each : joiners) CHECK_EQ(each.join(), Error::none);
            CHECK_EQ(sleep_for(1_ms), Error::none);
            char byte;
            CHECK_EQ(read(ends[0], &byte, 1), 1);
            CHECK_EQ(system.asked(), before);
        };
        round();
        size_t before = system.asked();
        for (int i = 0; i < 20; ++i) round();
        CHECK_EQ(system.asked(), before);  // not even for the threads
    });
    CHECK_EQ(loop(), Error::none);
    Inspection::check_at_rest();
}

TEST(a_hundred_thousand_parked_threads_cost_half_a_gigabyte_and_few_mappings) {
    if (test::sanitized) test::skip("a sanitizer's shadow costs more than the threads");
    if (test::emulated()) test::skip("an emulator's memory is not the program's");
    const int count = 100'000;
    size_t memory_before = memory("VmRSS"), mappings_before = mappings();
    if (!memory_before) test::skip("this system does not tell what is in memory");
    seterrorhandler([](Thread, const char*, void*) {}, nullptr, true);
    int parked = 0;
    Error refused = Error::none;
    for (int i = 0; i < count && !refused; ++i)
        refused = addthread([&] {
                      ++parked;
                      (void)park();
                  }).error;
    if (strcmp(status().guard, "kernel guard") != 0) {
        // The limit is the number of mappings, and it is survived: guarded otherwise, or refused.
        CHECK(!refused || refused == Error::no_memory);
        CHECK_EQ(loop(), Error::deadlock);
        CHECK(parked > 10'000);
        CHECK_EQ(destroy_loop(), Error::none);
        test::skip("no kernel guards here: so many threads need many mappings");
    }
    CHECK_EQ(refused, Error::none);
    CHECK_EQ(loop(), Error::deadlock);
    CHECK_EQ(parked, count);
    size_t resident = memory("VmRSS") - memory_before, maps = mappings() - mappings_before;
    fprintf(stderr, "%zu bytes a thread, %zu mappings\n", resident / count, maps);
    // A portable switch keeps a signal's frame or libc's context on the stack besides.
    CHECK(resident <= (TEST_PORTABLE_SWITCH ? size_t{1024} << 20 : size_t{512} << 20));
    CHECK(maps < 100);
    CHECK_EQ(destroy_loop(), Error::none);
    CHECK(memory("VmRSS") < memory_before + (size_t{16} << 20));
}

TEST(where_every_guard_is_a_mapping_the_mappings_are_not_used_up) {
    if (test::sanitized) test::skip("too slow with a sanitizer");
    const int count = 20'000;
    test::VirtualTime system;
    system.guard = [](const System& system, void* memory, size_t size, Guard kind) {
        if (kind == Guard::kernel) return -ENOSYS;
        return production_system.guard(system, memory, size, kind);
    };
    size_t guarded = 0, painted = 0;
    int ran = 0;
    for (int i = 0; i < count; ++i) {
        Result<Thread> thread = addthread([&] { ++ran; });
        REQUIRE(thread);
        Guard guard = Inspection::guard_of(*thread);
        guarded += guard == Guard::mprotect;
        painted += guard == Guard::canary;
    }
    CHECK_EQ(guarded, 16'000u);
    CHECK_EQ(painted, size_t(count) - 16'000);
    CHECK(!strcmp(status().guard, "canary"));
    CHECK_EQ(loop(), Error::none);
    CHECK_EQ(ran, count);
}

TEST(a_burst_of_threads_gives_its_pages_back_when_the_loop_is_idle) {
    const int count = test::sanitized ? 2000 : 20'000;
    Counting system;
    size_t before = memory("VmRSS"), peak = 0, after = 0;
    addthread([&] {
        std::vector<Thread> burst;
        for (int i = 0; i < count; ++i)
            burst.push_back(*addthread([] { CHECK_EQ(park(), Error::none); }));
        CHECK_EQ(yield(), Error::none);
        peak = memory("VmRSS");
        for (Thread each : burst) CHECK_EQ(each.unpark(), Error::none);
        for (Thread each : burst) CHECK_EQ(each.join(), Error::none);
        CHECK_EQ(system.discards, 0u);
        CHECK_EQ(sleep_for(1_s), Error::none);
        CHECK_EQ(Inspection::warm(), 256u);
        CHECK_EQ(Inspection::cold(), size_t(count) - 256);
        CHECK_EQ(system.discards, size_t(count) - 256);
        Inspection::check();
        after = memory("VmRSS");
        // They are used again without asking for more.
        size_t asked = system.asked();
        for (int i = 0; i < count; ++i) CHECK(addthread([] {}));
        CHECK_EQ(yield(), Error::none);
        CHECK_EQ(system.asked(), asked);
    });
    CHECK_EQ(loop(), Error::none);
    if (test::sanitized || test::emulated() || !before) return;
    CHECK(peak - before > size_t(count) * 4096);
    CHECK(after < before + (size_t{24} << 20));
}

TEST(a_burst_of_threads_gives_its_pages_back_when_the_loop_has_ended) {
    Counting system;
    for (int i = 0; i < 1000; ++i) CHECK(addthread([] {}));
    CHECK_EQ(loop(), Error::none);
    CHECK_EQ(Inspection::warm(), 256u);
    CHECK_EQ(system.discards, 744u);
}

TEST(stacks_are_given_back_some_at_a_time_with_a_look_in_between) {
    struct Trimming : Counting {
        mutable size_t most_at_once = 0, since_look = 0;
        decltype(System::poller_wait) wait_virtually;
        Trimming() {
            wait_virtually = poller_wait;
            poller_wait = [](const System& system, Poller* poller, PollEvent* events, int capacity,
                             int64_t timeout) {
                auto& self = static_cast<const Trimming&>(system);
                size_t discarded = self.discards - self.since_look;
                if (discarded > self.most_at_once) self.most_at_once = discarded;
                self.since_look = self.discards;
                return self.wait_virtually(system, poller, events, capacity, timeout);
            };
        }
    };
    Trimming system;
    addthread([&] {
        // Of several sizes, more than are given back at once of each.
        std::vector<Thread> burst;
        for (size_t size : {16384, 32768, 65536, 131072})
            for (int i = 0; i < 700; ++i) burst.push_back(*addthread({.stack_size = size}, [] {}));
        for (Thread each : burst) CHECK_EQ(each.join(), Error::none);
        CHECK_EQ(sleep_for(1_s), Error::none);
        CHECK_EQ(Inspection::warm(), 256u);
        CHECK_EQ(Inspection::cold(), 4 * 700u - 256);
    });
    CHECK_EQ(loop(), Error::none);
    CHECK(system.most_at_once <= 256);
    Inspection::check_at_rest();
}

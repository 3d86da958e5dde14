// Memory: any request for it may be refused, and nothing is lost but what was asked for.
#include "child.h"
#include "inspection.h"
#include "machine.h"
#include "test.h"
#include "virtual_time.h"

#include <copse/copse.h>

#include <map>
#include <string>
#include <sys/resource.h>
#include <unistd.h>
#include <vector>

using namespace copse;

namespace {

// Refuses some requests, and keeps account of the others.
struct Scarce : test::VirtualTime {
    enum Kind { nothing, allocating, mapping, guarding };
    mutable Kind refused = nothing;
    mutable int grants = 0;     // of that kind before the first refusal
    mutable bool once = false;  // and then no more refusals
    mutable int refusals = 0;
    mutable size_t largest_map = SIZE_MAX;
    mutable std::map<void*, size_t> allocated, mapped;

    Scarce() {
        allocate = [](const System& system, size_t size) -> void* {
            if (self(system).refuses(allocating)) return nullptr;
            void* memory = production_system.allocate(system, size);
            self(system).allocated[memory] = size;
            return memory;
        };
        release = [](const System& system, void* memory, size_t size) {
            CHECK_EQ(self(system).allocated[memory], size);
            self(system).allocated.erase(memory);
            production_system.release(system, memory, size);
        };
        map = [](const System& system, size_t size) -> void* {
            if (size > self(system).largest_map || self(system).refuses(mapping)) return nullptr;
            void* memory = production_system.map(system, size);
            self(system).mapped[memory] = size;
            return memory;
        };
        unmap = [](const System& system, void* memory, size_t size) {
            CHECK_EQ(self(system).mapped[memory], size);
            self(system).mapped.erase(memory);
            production_system.unmap(system, memory, size);
        };
        guard = [](const System& system, void* memory, size_t size, Guard kind) {
            if (self(system).refuses(guarding)) return -ENOMEM;
            return production_system.guard(system, memory, size, kind);
        };
    }

    ~Scarce() { (void)destroy_loop(); }  // while there still is an account

    void refuse(Kind kind, int after, bool only_once) const {
        refused = kind;
        grants = after;
        once = only_once;
        refusals = 0;
    }
    void give_freely() const { refused = nothing; }

  private:
    static const Scarce& self(const System& system) { return static_cast<const Scarce&>(system); }
    bool refuses(Kind kind) const {
        if (kind != refused || grants-- > 0) return false;
        if (once) refused = nothing;
        ++refusals;
        return true;
    }
};

int objects;
struct Counted {
    Counted() { ++objects; }
    Counted(const Counted&) { ++objects; }
    ~Counted() { --objects; }
};
Local<Counted> local;

// A little of everything; what it asks for it may not get, and then it does without.
void do_things() {
    auto try_to_add = [](const ThreadOptions& options, auto body) {
        Result<Thread> thread = addthread(options, body);
        if (thread) CHECK(!thread->finished());
        else CHECK(thread.error == Error::no_memory && thread->finished());
        return *thread;
    };
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    try_to_add({}, [&, counted = Counted{}] {
        std::vector<Thread> threads;
        // Of one size so many that the tables grow where the stacks need not.
        for (size_t i = 0; i < 80; ++i) {
            size_t size = i % 4 ? 65536 : size_t{16384} << i % 3;
            threads.push_back(try_to_add({.stack_size = size}, [i, counted = Counted{}] {
                Counted on_stack;
                (void)local.get();
                CHECK_EQ(yield(), Error::none);
                CHECK_EQ(sleep_for(Duration::nanoseconds(int64_t(i % 5) + 1)), Error::none);
            }));
        }
        for (int i = 0; i < 2; ++i) CHECK_EQ(yield(), Error::none);
        Inspection::check();  // everybody sleeps
        Result<Events> ready = wait(ends[1], Events::writable);
        CHECK(ready.error == Error::none || ready.error == Error::no_memory);
        for (Thread each : threads) CHECK_EQ(each.join(), Error::none);
    });
    Error error = loop();
    CHECK(error == Error::none || error == Error::no_memory);
    if (!error) Inspection::check_at_rest();
    else CHECK(objects == 0);
    CHECK_EQ(objects, 0);
    close(ends[0]);
    close(ends[1]);
}

// Refuses the first request of that kind, then the second, and so on.
void refuse_each(Scarce::Kind kind) {
    const int stride = test::thread_sanitizer ? 10 : 1;  // threads are dear there
    for (bool once : {true, false})
        for (int k = 0;; k += stride) {
            Scarce system;
            system.refuse(kind, k, once);
            do_things();
            int refusals = system.refusals;
            system.give_freely();
            do_things();  // as good as new
            CHECK_EQ(destroy_loop(), Error::none);
            CHECK(system.allocated.empty());
            CHECK(system.mapped.empty());
            if (refusals == 0) {
                CHECK(k > 3);
                break;
            }
        }
}

}  // namespace

TEST(any_allocation_may_be_refused_once_or_for_good) { refuse_each(Scarce::allocating); }

TEST(any_mapping_may_be_refused_once_or_for_good) { refuse_each(Scarce::mapping); }

TEST(any_guard_may_be_refused_once_or_for_good) { refuse_each(Scarce::guarding); }

TEST(a_loop_that_cannot_be_made_says_so_everywhere) {
    Scarce system;
    for (auto kind : {Scarce::mapping, Scarce::allocating}) {
        system.refuse(kind, 0, false);
        CHECK_EQ(addthread([] {}).error, Error::no_memory);
        CHECK_EQ(loop(), Error::no_memory);
        CHECK_EQ(loop([] {}), Error::no_memory);
        CHECK_EQ(step().error, Error::no_memory);
        CHECK_EQ(seterrorhandler(nullptr, nullptr, true), Error::no_memory);
        CHECK(now() == system.at());
        (void)copse::random();
        CHECK(finished() && !running() && !stopping() && !inthread());
        CHECK_EQ(status().turns, 0u);
        setspin(1_us);
        stop();
        cancelall();
        CHECK_EQ(destroy_loop(), Error::none);
        CHECK(system.allocated.empty() && system.mapped.empty());
    }
}

TEST(threads_that_run_go_on_where_no_more_can_be_added) {
    Scarce system;
    addthread([&] {
        system.refuse(Scarce::mapping, 0, false);
        std::vector<Thread> threads;
        for (int i = 0; i < 1000; ++i) {
            Result<Thread> thread = addthread([] { CHECK_EQ(park(), Error::none); });
            if (!thread) {
                CHECK_EQ(thread.error, Error::no_memory);
                break;
            }
            threads.push_back(*thread);
        }
        CHECK(threads.size() < 1000);
        CHECK_EQ(yield(), Error::none);
        size_t blocks = Inspection::blocks();
        for (int i = 0; i < 100; ++i) CHECK_EQ(addthread([] {}).error, Error::no_memory);
        CHECK(Inspection::blocks() <= blocks + 1);  // what could be had is kept for the next
        Inspection::check();
        // One place that falls free is a place.
        CHECK_EQ(threads[0].unpark(), Error::none);
        CHECK_EQ(threads[0].join(), Error::none);
        CHECK(addthread([] {}));
        system.give_freely();
        for (int i = 0; i < 100; ++i) CHECK(addthread([] {}));
        for (Thread each : threads) (void)each.unpark();
    });
    CHECK_EQ(loop(), Error::none);
    Inspection::check_at_rest();
}

TEST(where_large_mappings_cannot_be_had_small_ones_do) {
    Scarce system;
    CHECK(!step(0_s).value);
    system.largest_map = 1 << 20;
    int ran = 0;
    for (int i = 0; i < 300; ++i) {
        CHECK(addthread({.stack_size = 131072}, [&] { ++ran; }));
        CHECK_EQ(addthread({.stack_size = 1 << 20}, [] {}).error, Error::no_memory);
    }
    CHECK_EQ(loop(), Error::none);
    CHECK_EQ(ran, 300);
    Inspection::check_at_rest();
}

TEST(at_the_limit_of_the_address_space_threads_are_refused_and_the_rest_runs) {
    if (test::sanitized || test::emulated()) test::skip("the limit would strike somebody else");
    test::require_in_child([] {
        rlimit limit{size_t{256} << 20, size_t{256} << 20};
        if (setrlimit(RLIMIT_AS, &limit) != 0) return;
        int added = 0, ran = 0;
        Error error;
        while (!error) {
            error = addthread([&] {
                        CHECK_EQ(yield(), Error::none);
                        ++ran;
                    }).error;
            added += !error;
        }
        CHECK_EQ(error, Error::no_memory);
        CHECK(added > 500 && added < 5000);
        CHECK_EQ(loop(), Error::none);
        CHECK_EQ(ran, added);
        CHECK(addthread([] {}));  // in the place of one that has ended
        CHECK_EQ(loop(), Error::none);
    });
}

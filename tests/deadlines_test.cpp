// Deadlines: the heap with lazy entries against a sorted list of what was asked.
#include "inspection.h"
#include "machine.h"
#include "test.h"
#include "virtual_time.h"

#include <copse/copse.h>

#include <map>
#include <memory>
#include <set>
#include <vector>

using namespace copse;

namespace {

struct Random {
    uint64_t state;
    uint32_t operator()(uint32_t below) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        return uint32_t((state >> 33) % below);
    }
};

// A heap of its own, and the plainest thing that could be right.
struct Model {
    Deadlines heap;
    std::unique_ptr<ThreadBlock[]> threads;
    uint32_t count;
    std::set<std::pair<int64_t, ThreadBlock*>> due;

    explicit Model(uint32_t how_many) : threads{new ThreadBlock[how_many]}, count{how_many} {
        heap.open(production_system);
        REQUIRE(heap.reserve(count));
        for (uint32_t i = 0; i < count; ++i) threads[i].slot = i;
    }
    ~Model() { heap.close(); }

    void forget(ThreadBlock& thread) { due.erase({thread.deadline, &thread}); }
    void arm(ThreadBlock& thread, int64_t at) {
        forget(thread);
        heap.arm(thread, at);
        due.insert({at, &thread});
    }
    void disarm(ThreadBlock& thread) {
        forget(thread);
        Deadlines::disarm(thread);
    }
    int64_t nearest() const { return due.empty() ? INT64_MAX : due.begin()->first; }

    void advance(int64_t now) {
        int64_t last = INT64_MIN;
        while (ThreadBlock* thread = heap.pop_due(now)) {
            // Which of two with the same deadline comes first is nobody's business.
            REQUIRE(!due.empty());
            int64_t at = due.begin()->first;
            CHECK(at <= now && at >= last);
            CHECK_EQ(due.erase({at, thread}), 1u);
            CHECK_EQ(thread->deadline, INT64_MAX);
            CHECK_EQ(thread->queued_at, ThreadBlock::unqueued);
            last = at;
        }
        CHECK(nearest() > now);
    }
};

}  // namespace

TEST(a_million_random_operations_agree_with_a_sorted_list) {
    const int operations = test::sanitized ? 100'000 : 1'000'000;
    for (uint32_t count : {1u, 2u, 7u, 300u}) {
        Model model{count};
        Random random{count};
        int64_t now = 0;
        for (int i = 0; i < operations / 4; ++i) {
            ThreadBlock& thread = model.threads[random(count)];
            switch (random(8)) {
            case 0: case 1: case 2: model.arm(thread, now + random(1000)); break;
            case 3: model.arm(thread, now - random(10)); break;
            case 4: model.arm(thread, INT64_MAX - 1 - random(2)); break;
            case 5: model.disarm(thread); break;
            case 6: CHECK_EQ(model.heap.nearest(), model.nearest()); break;
            case 7: model.advance(now += random(100)); break;
            }
            if (i % 1000 == 0) Inspection::check(model.heap);
        }
        model.advance(INT64_MAX - 1);
        CHECK_EQ(model.heap.nearest(), INT64_MAX);
        CHECK_EQ(Inspection::deadline_entries(model.heap), 0u);
        CHECK(model.heap.empty());
    }
}

TEST(deadlines_come_in_order_however_they_were_armed) {
    const uint32_t count = 4096;
    for (int way = 0; way < 4; ++way) {
        Model model{count};
        Random random{uint64_t(way)};
        for (uint32_t i = 0; i < count; ++i) {
            int64_t at = way == 0 ? i : way == 1 ? count - i : way == 2 ? 5 : random(1u << 30);
            model.arm(model.threads[i], at);
        }
        Inspection::check(model.heap);
        for (int64_t now = model.nearest(); now != INT64_MAX; now = model.nearest()) {
            CHECK_EQ(model.heap.nearest(), now);
            model.advance(now);
        }
        CHECK(model.due.empty());
    }
}

TEST(an_entry_that_nobody_wants_any_more_is_dropped_unseen) {
    Model model{3};
    for (uint32_t i = 0; i < 3; ++i) model.arm(model.threads[i], 10 + i);
    model.disarm(model.threads[0]);
    model.disarm(model.threads[2]);
    CHECK_EQ(Inspection::deadline_entries(model.heap), 3u);
    CHECK_EQ(model.heap.nearest(), 11);
    CHECK(model.heap.pop_due(10) == nullptr);
    CHECK(model.heap.pop_due(100) == &model.threads[1]);
    CHECK(model.heap.pop_due(100) == nullptr);
    CHECK(model.heap.empty());
}

TEST(a_deadline_put_off_again_and_again_has_one_entry) {
    Model model{2};
    model.arm(model.threads[1], 2'000'000);
    for (int64_t i = 0; i < 1'000'000; ++i) {
        model.heap.arm(model.threads[0], i + 10);
        CHECK(Inspection::deadline_entries(model.heap) <= 2);
        if (i % 3 == 0) CHECK(model.heap.nearest() == i + 10);
    }
    model.due.insert({1'000'009, &model.threads[0]});
    model.advance(1'000'008);
    CHECK_EQ(model.nearest(), 1'000'009);
    CHECK_EQ(model.heap.nearest(), 1'000'009);
    model.advance(3'000'000);
}

namespace {

// Counts what the loop asks for.
struct Counting : test::VirtualTime {
    mutable size_t asked = 0;
    Counting() {
        allocate = [](const System& system, size_t size) {
            ++static_cast<const Counting&>(system).asked;
            return production_system.allocate(system, size);
        };
        map = [](const System& system, size_t size) {
            ++static_cast<const Counting&>(system).asked;
            return production_system.map(system, size);
        };
    }
};

}  // namespace

TEST(a_deadline_armed_a_million_times_allocates_nothing) {
    const int times = test::sanitized ? 50'000 : 1'000'000;
    Counting clock;
    clock.waits.reserve(size_t(times) * 2);
    std::vector<Thread> sleepers;
    for (int i = 0; i < 10; ++i)
        sleepers.push_back(*addthread([&, i] {
            for (;;) {
                Timeout scope{Duration::nanoseconds(1000 + i)};
                Error error = sleep_for(Duration::nanoseconds(10 * i + 5));
                if (error == Error::canceled) break;
                CHECK_EQ(error, Error::none);
            }
        }));
    addthread([&] {
        (void)yield();
        size_t before = clock.asked;
        for (int i = 0; i < times / 10; ++i) CHECK_EQ(sleep_for(47_ns), Error::none);
        CHECK_EQ(clock.asked, before);
        CHECK(Inspection::deadline_entries() <= 11);
        for (Thread each : sleepers) CHECK_EQ(each.cancel(), Error::none);
    });
    CHECK_EQ(loop(), Error::none);
    Inspection::check_at_rest();
}

TEST(thousands_of_sleepers_wake_in_order_and_on_time) {
    test::VirtualTime clock;
    const int count = test::sanitized ? 500 : 5000;
    int64_t last = 0;
    int woken = 0;
    Random random{1};
    for (int i = 0; i < count; ++i)
        addthread([&, length = Duration::nanoseconds(random(1u << 31) + 1)] {
            Time end = now() + length;
            CHECK_EQ(sleep_until(end), Error::none);
            CHECK_EQ(clock.time, end.count());
            CHECK(clock.time >= last);
            last = clock.time;
            ++woken;
        });
    CHECK_EQ(loop(), Error::none);
    CHECK_EQ(woken, count);
    Inspection::check_at_rest();
}

// A wait with a deadline that is met long before: the entry stays, and is found stale in time.
TEST(entries_of_waits_that_were_met_wake_nobody) {
    test::VirtualTime clock;
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    addthread([&] {
        Thread first = *addthread([] {
            {
                Timeout scope{1_s};
                CHECK_EQ(park(), Error::none);
            }
            CHECK_EQ(park(), Error::none);  // not ended by the first deadline
        });
        CHECK_EQ(yield(), Error::none);
        CHECK_EQ(first.unpark(), Error::none);
        CHECK_EQ(sleep_for(5_s), Error::none);
        CHECK(!first.finished());
        CHECK_EQ(first.unpark(), Error::none);
        // Its slot's next thread has nothing to do with it either.
        Thread next = *addthread([] {
            Timeout scope{1_s};
            CHECK_EQ(yield(), Error::none);
        });
        CHECK_EQ(next.join(), Error::none);
        Thread last = *addthread([] { CHECK_EQ(park(), Error::none); });
        CHECK_EQ(sleep_for(5_s), Error::none);
        CHECK(!last.finished());
        CHECK_EQ(last.unpark(), Error::none);
    });
    CHECK_EQ(loop(), Error::none);
    Inspection::check_at_rest();
}

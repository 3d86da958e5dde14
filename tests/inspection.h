// Inspection: whether what the loop keeps agrees with itself. Looks at what no user can see.
#pragma once

#include "runtime/invariants.h"
#include "test.h"

// A question that is answered by what is wrong, or null.
#define CHECK_HOLDS(question)                                                                      \
    do {                                                                                           \
        if (const char* broken = (question)) test::fail(__FILE__, __LINE__, broken);               \
    } while (0)

namespace copse {

struct Inspection {
    // Of the loop of this OS thread, at any moment between two parking calls.
    static void check() {
        Loop* loop = Loop::current();
        if (loop) check(*loop);
    }

    // Besides: nobody is ready, waits or sleeps, and nothing was left behind by those who did.
    static void check_at_rest() {
        check();
        Loop* loop = Loop::current();
        if (!loop) return;
        CHECK(loop->nothing_ready());
        CHECK_EQ(loop->waiting_, 0u);
        CHECK_EQ(loop->timed_, 0u);
        CHECK_EQ(loop->watched_, 0u);
        CHECK_EQ(loop->unsent_, 0u);
        CHECK(!loop->drainables_);
        CHECK(!loop->entered_ && !loop->looping_ && !loop->ending_);
        CHECK(loop->running_ == &loop->home_);
    }

    static size_t live() { return Loop::current()->live_; }
    static size_t deadline_entries() { return Loop::current()->deadlines_.size_; }
    static size_t deadline_entries(const Deadlines& deadlines) { return deadlines.size_; }
    static size_t blocks() { return Loop::current()->blocks_.size(); }
    static size_t watches() { return Loop::current()->watches_.size(); }
    static size_t warm() { return Loop::current()->warm_count_; }
    static size_t cold() {
        size_t count = 0;
        for (ThreadBlock* first : Loop::current()->cold_) count += length(first);
        return count;
    }
    static Guard guard_of(Thread thread) { return block(thread).stack.guard; }
    static Stack stack_of(Thread thread) { return block(thread).stack; }
    static bool parked(Thread thread) { return block(thread).state == State::parked; }
    static bool permit(Thread thread) { return block(thread).permit; }
    static int64_t typical_wait() { return Loop::current()->typical_wait_; }

    static void check(const Deadlines& deadlines) { CHECK_HOLDS(Invariants::deadlines(deadlines)); }

  private:
    static ThreadBlock& block(Thread thread) {
        ThreadBlock* found = Loop::current()->find(thread);
        REQUIRE(found);
        return *found;
    }

    static size_t length(const ThreadBlock* first) {
        size_t count = 0;
        for (; first; first = first->next) ++count;
        return count;
    }

    static void check(Loop& loop) { CHECK_HOLDS(Invariants{loop}.first_broken()); }
};

}  // namespace copse

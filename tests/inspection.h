// Inspection: whether what the loop keeps agrees with itself. Looks at what no user can see.
#pragma once

#include "runtime/loop.h"
#include "test.h"

#include <set>

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

    static void check(const Deadlines& deadlines) {
        CHECK(deadlines.size_ <= deadlines.capacity_);
        for (uint32_t i = 0; i < deadlines.size_; ++i) {
            const auto& entry = deadlines.entries_[i];
            CHECK_EQ(entry.thread->queued_at, i);
            CHECK(entry.key <= entry.thread->deadline);
            if (i) CHECK(deadlines.entries_[(i - 1) / Deadlines::arity].key <= entry.key);
        }
    }

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

    static void check(Loop& loop) {
        size_t live = 0, ready = 0, free = 0, waiting = 0, timed = 0, queued = 0;
        for (uint32_t i = 0; i < loop.blocks_.size(); ++i) {
            ThreadBlock& thread = *loop.blocks_.at(i);
            CHECK_EQ(thread.slot, i);
            CHECK(thread.generation != 0);
            if (thread.queued_at != ThreadBlock::unqueued) ++queued;
            bool parked = thread.state == State::parked;
            if (!parked) CHECK(!thread.waiters);
            for (Waiter* each = thread.waiters; each; each = each->sibling)
                CHECK(each->thread == &thread);
            switch (thread.state) {
            case State::free:
                ++free;
                CHECK(thread.joiners.empty());
                CHECK_EQ(thread.deadline, INT64_MAX);
                CHECK(!thread.locals);
                continue;
            case State::ready: ++ready; break;
            case State::running: CHECK(&thread == loop.running_); break;
            case State::parked:
                waiting += thread.on_descriptor;
                timed += thread.deadline != INT64_MAX;
                CHECK(!thread.canceled);
                break;
            }
            ++live;
        }
        CHECK_EQ(live, loop.live_);
        CHECK_EQ(ready, loop.woken_.count() + loop.queue_.count());
        size_t unused = length(loop.bare_);
        for (ThreadBlock* first : loop.warm_) unused += length(first);
        CHECK_EQ(unused - length(loop.bare_), loop.warm_count_);
        for (ThreadBlock* first : loop.cold_) unused += length(first);
        CHECK_EQ(unused, free);
        // Counted until they run again, so those made ready are still in.
        CHECK(loop.waiting_ >= waiting && loop.waiting_ <= waiting + ready);
        CHECK(loop.timed_ >= timed && loop.timed_ <= timed + ready);
        check(loop.deadlines_);
        CHECK_EQ(queued, loop.deadlines_.size_);
        CHECK(loop.turn_left_ <= loop.queue_.count());
        for (const ReadyRing* ring : {&loop.woken_, &loop.queue_})
            for (uint32_t i = 0; i < ring->count(); ++i) CHECK(ring->at(i)->state == State::ready);

        size_t open = 0;
        for (uint32_t i = 0; i < loop.watches_.size(); ++i) {
            Watch& watch = *loop.watches_.at(i);
            if (watch.open()) ++open;
            else CHECK(watch.readers.empty() && watch.writers.empty());
        }
        CHECK_EQ(open, loop.watched_);
        for (Watch* each = loop.free_watches_; each; each = each->next_free) CHECK(!each->open());
    }
};

}  // namespace copse

// Invariants: whether what a loop keeps agrees with itself, judged at any dispatch.
//
// The headers of runtime/ say what is always true; here the same sentences are questions. Nothing
// in the library asks them: a simulator does, between two steps, and tests do. Each walks all that
// the loop has, so asking costs in proportion to it.
#pragma once

#include "runtime/hosting.h"
#include "runtime/loop.h"

namespace copse {

struct Invariants {
    Loop& loop;

    // The words for the first that does not hold; null: all hold.
    const char* first_broken() const {
        if (const char* broken = threads()) return broken;
        if (const char* broken = rings()) return broken;
        if (const char* broken = deadlines(loop.deadlines_)) return broken;
        if (const char* broken = watches()) return broken;
        return drainables();
    }

    // Deadlines: positions, order of the heap, no key beyond its thread's deadline.
    static const char* deadlines(const Deadlines& deadlines) {
        if (deadlines.size_ > deadlines.capacity_) return "more deadlines than there is room for";
        for (uint32_t i = 0; i < deadlines.size_; ++i) {
            const auto& entry = deadlines.entries_[i];
            if (entry.thread->queued_at != i) return "a thread does not know its deadline's place";
            if (entry.key > entry.thread->deadline) return "a deadline comes up after its time";
            if (i && deadlines.entries_[(i - 1) / Deadlines::arity].key > entry.key)
                return "an earlier deadline lies below a later one";
        }
        return nullptr;
    }

    const char* ask_about_watches(const char* (*question)(void*, const Watched&),
                                  void* context) const {
        for (uint32_t i = 0; i < loop.watches_.size(); ++i) {
            Watch& watch = *loop.watches_.at(i);
            if (!watch.open()) continue;
            Watched watched{watch.fd, watch.token(), !watch.readers.empty(), !watch.writers.empty()};
            if (const char* broken = question(context, watched)) return broken;
        }
        return nullptr;
    }

  private:
    // I1, I2, I4, I6, I11: a thread is in one state, is where that state says, and is counted.
    const char* threads() const {
        size_t live = 0, ready = 0, free = 0, waiting = 0, timed = 0, queued = 0;
        for (uint32_t i = 0; i < loop.blocks_.size(); ++i) {
            ThreadBlock& thread = *loop.blocks_.at(i);
            if (thread.slot != i || thread.generation == 0) return "a block has lost its name";
            queued += thread.queued_at != ThreadBlock::unqueued;
            if (thread.state == State::free) {
                ++free;
                if (const char* broken = ended(thread)) return broken;
                continue;
            }
            ++live;
            if (const char* broken = alive(thread)) return broken;
            ready += thread.state == State::ready;
            if (thread.state != State::parked) continue;
            waiting += thread.waits_on >= 0;
            timed += thread.deadline != INT64_MAX;
        }
        if (live != loop.live_) return "threads are miscounted";
        if (ready != loop.woken_.count() + loop.queue_.count())
            return "not every ready thread is in one ring";
        if (queued != loop.deadlines_.size_) return "a deadline belongs to no thread";
        // Counted until they run again, so those made ready are still in.
        if (loop.waiting_ < waiting || loop.waiting_ > waiting + ready + 1)
            return "threads on descriptors are miscounted";
        if (loop.timed_ < timed || loop.timed_ > timed + ready + 1)
            return "threads with deadlines are miscounted";
        if (free != unused()) return "not every ended thread's block can be used again";
        return nullptr;
    }
    static const char* ended(ThreadBlock& thread) {
        if (!thread.joiners.empty()) return "somebody waits for a thread that has ended";
        if (thread.waiters) return "a thread that has ended waits for something";
        if (thread.deadline != INT64_MAX) return "a thread that has ended has a deadline";
        if (thread.details && thread.details->locals)
            return "a thread that has ended has values of its own";
        return nullptr;
    }
    const char* alive(ThreadBlock& thread) const {
        if (thread.stack.guard == Guard::canary && thread.state != State::running &&
            !Stacks::painted(thread.stack))
            return "a stack has been overrun";
        bool listed = false;
        for (Waiter* each = thread.waiters; each; each = each->sibling) {
            if (each->thread != &thread) return "a thread waits for another";
            listed |= each->linked();
        }
        if (thread.waiters && !listed) return "who waits is in no list";
        if (thread.state == State::running && &thread != loop.running_) return "two threads run";
        if (thread.state != State::parked) return thread.waiters ? "a thread waits and runs" : nullptr;
        if (thread.canceled) return "a canceled thread is parked";
        if (thread.permit && thread.awaits_permit) return "a thread is parked in spite of its permit";
        return nullptr;
    }
    size_t unused() const {
        size_t count = 0;
        auto add = [&](const ThreadBlock* first) {
            for (; first; first = first->next) ++count;
        };
        add(loop.bare_);
        for (ThreadBlock* first : loop.warm_) add(first);
        for (ThreadBlock* first : loop.cold_) add(first);
        return count;
    }

    const char* rings() const {
        if (loop.turn_left_ > loop.queue_.count()) return "a turn is longer than the queue";
        for (const ReadyRing* ring : {&loop.woken_, &loop.queue_})
            for (uint32_t i = 0; i < ring->count(); ++i)
                if (ring->at(i)->state != State::ready) return "a thread in a ring is not ready";
        return nullptr;
    }

    // I3, I5, I10: who waits on a descriptor waits on an open one whose bit is clear.
    const char* watches() const {
        size_t open = 0;
        for (uint32_t i = 0; i < loop.watches_.size(); ++i) {
            Watch& watch = *loop.watches_.at(i);
            bool idle = watch.readers.empty() && watch.writers.empty();
            if (!watch.open()) {
                if (!idle) return "somebody waits on a descriptor that was closed";
                continue;
            }
            ++open;
            if (const char* broken = waits(watch.readers, watch, PollEvent::readable)) return broken;
            if (const char* broken = waits(watch.writers, watch, PollEvent::writable)) return broken;
        }
        for (Watch* each = loop.free_watches_; each; each = each->next_free)
            if (each->open()) return "an open watch may be given out again";
        return open == loop.watched_ ? nullptr : "watches are miscounted";
    }
    static const char* waits(WaitList& list, const Watch& watch, uint32_t bit) {
        Waiter* first = list.first();
        if (!first) return nullptr;
        if (first->thread->state != State::parked) return "who waits on a descriptor is not parked";
        if (first->thread->waits_on != watch.fd) return "a waiter is in another descriptor's list";
        return watch.ready & bit ? "a thread waits for what has come" : nullptr;
    }

    const char* drainables() const {
        for (Drainable* each = loop.drainables_; each; each = each->next)
            if (!each->queued) return "what is to be drained does not know it";
        return nullptr;
    }
};

}  // namespace copse

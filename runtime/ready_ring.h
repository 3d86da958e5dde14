// ReadyRing: threads that may run, in the order in which they became ready.
//
// An array, not a list: whoever comes next is known before the one in front has run, and one of
// many can be taken out of turn at no cost. There is room for every thread there is, made when a
// block is carved: waking allocates nothing and cannot fail.
//
// Invariants:
//  - A thread is in at most one ring, once, exactly while it is ready.
//  - Positions only grow, but that an empty ring may begin anew at the front, whose memory is warm;
//    the index in the array is the position's low bits.
#pragma once

#include "runtime/thread_block.h"

namespace copse {

class ReadyRing {
  public:
    void open(const System& system) { system_ = &system; }
    void close() {
        if (items_) system_->release(*system_, items_, capacity() * sizeof *items_);
        items_ = nullptr;
        mask_ = begin_ = end_ = 0;
    }

    // Makes room for `threads` of them; false: no memory.
    bool reserve(uint32_t threads) {
        if (items_ && threads <= capacity()) return true;
        uint32_t wanted = items_ ? capacity() : 64;
        while (wanted < threads) wanted *= 2;
        auto** grown =
            static_cast<ThreadBlock**>(system_->allocate(*system_, wanted * sizeof *items_));
        if (!grown) return false;
        uint32_t held = count();
        for (uint32_t i = 0; i < held; ++i) grown[i] = at(i);
        close();
        items_ = grown;
        mask_ = wanted - 1;
        end_ = held;
        return true;
    }

    bool empty() const { return begin_ == end_; }
    uint32_t count() const { return end_ - begin_; }
    ThreadBlock* at(uint32_t index) const { return items_[(begin_ + index) & mask_]; }

    void append(ThreadBlock& thread) { items_[end_++ & mask_] = &thread; }
    ThreadBlock& pop() {
        if (count() > far_ahead) warm_what_comes();
        return *items_[begin_++ & mask_];
    }
    void rewind() {
        if (empty()) begin_ = end_ = 0;
    }
    // Puts the one at `index` in front; the one that was there takes its place.
    void bring_forward(uint32_t index) {
        ThreadBlock*& first = items_[begin_ & mask_];
        ThreadBlock*& chosen = items_[(begin_ + index) & mask_];
        ThreadBlock* kept = first;
        first = chosen;
        chosen = kept;
    }

  private:
    // Among many threads a dispatch mostly waits for memory: a block, then the top of a stack that
    // the block points to. Both are fetched while others still run, the block long before, so that
    // its pointer is there to be followed. Only for who has more than far_ahead threads. Inline at
    // any price: to gcc a function that does nothing but this does nothing, and its call goes.
    [[gnu::always_inline]] void warm_what_comes() const {
        __builtin_prefetch(at(far_ahead), 1);
        const char* saved = static_cast<const char*>(at(near_ahead)->sp);
        for (size_t line = 0; line < 3; ++line) __builtin_prefetch(saved + line * 64, 1);
    }

    static constexpr uint32_t far_ahead = 16;
    static constexpr uint32_t near_ahead = 6;

    uint32_t capacity() const { return mask_ + 1; }

    ThreadBlock** items_ = nullptr;
    uint32_t mask_ = 0;
    uint32_t begin_ = 0;
    uint32_t end_ = 0;
    const System* system_ = nullptr;
};

}  // namespace copse

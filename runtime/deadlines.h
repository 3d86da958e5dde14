// Deadlines: which parked thread's time comes next. A 4-ary heap with lazy entries.
//
// Arming a deadline stores the time in the thread, and touches the heap only when the thread has
// no entry or its entry is later than the new time; disarming stores "never". An entry that comes
// up too early is put back where it belongs, one whose thread wants nothing is dropped. So a
// timeout set anew for each receive costs two stores.
//
// Invariants:
//  - A thread has at most one entry, and queued_at says where; the entry's key is at most the
//    thread's deadline whenever that is not INT64_MAX.
//  - There is room for an entry of every block there is: arming cannot fail.
#pragma once

#include "runtime/thread_block.h"

namespace copse {

class Deadlines {
  public:
    void open(const System& system) { system_ = &system; }
    void close();

    // Makes room for entries of `blocks` threads; false: no memory.
    bool reserve(uint32_t blocks);

    void arm(ThreadBlock& thread, int64_t at) {
        thread.deadline = at;
        if (thread.queued_at == ThreadBlock::unqueued || at < entries_[thread.queued_at].key)
            insert(thread, at);
    }
    static void disarm(ThreadBlock& thread) { thread.deadline = INT64_MAX; }

    bool empty() const { return size_ == 0; }

    // The earliest deadline that anybody still waits for; INT64_MAX: none.
    int64_t nearest();

    // A thread whose deadline is not after now, and takes its entry out; null: none.
    ThreadBlock* pop_due(int64_t now);

  private:
    friend struct Invariants;
    friend struct Inspection;  // of the tests

    struct Entry {
        int64_t key;
        ThreadBlock* thread;
    };
    static constexpr uint32_t arity = 4;

    void insert(ThreadBlock& thread, int64_t at);
    void settle_top();
    void remove_top();
    void sift_up(uint32_t at, Entry entry);
    void sift_down(uint32_t at, Entry entry);
    void put(uint32_t at, Entry entry) {
        entries_[at] = entry;
        entry.thread->queued_at = at;
    }

    const System* system_ = nullptr;
    Entry* entries_ = nullptr;
    uint32_t size_ = 0;
    uint32_t capacity_ = 0;
};

}  // namespace copse

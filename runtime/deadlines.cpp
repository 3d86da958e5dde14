#include "runtime/deadlines.h"

#include <string.h>

namespace copse {

bool Deadlines::reserve(uint32_t blocks) {
    if (blocks <= capacity_) return true;
    uint32_t capacity = capacity_ ? capacity_ : 64;
    while (capacity < blocks) capacity *= 2;
    auto* entries = static_cast<Entry*>(system_->allocate(*system_, capacity * sizeof(Entry)));
    if (!entries) return false;
    if (size_) memcpy(entries, entries_, size_ * sizeof(Entry));
    if (entries_) system_->release(*system_, entries_, capacity_ * sizeof(Entry));
    entries_ = entries;
    capacity_ = capacity;
    return true;
}

void Deadlines::close() {
    if (entries_) system_->release(*system_, entries_, capacity_ * sizeof(Entry));
    entries_ = nullptr;
    size_ = capacity_ = 0;
}

void Deadlines::insert(ThreadBlock& thread, int64_t at) {
    uint32_t from = thread.queued_at;
    if (from == ThreadBlock::unqueued) from = size_++;
    sift_up(from, {at, &thread});
}

void Deadlines::sift_up(uint32_t at, Entry entry) {
    while (at > 0) {
        uint32_t parent = (at - 1) / arity;
        if (entries_[parent].key <= entry.key) break;
        put(at, entries_[parent]);
        at = parent;
    }
    put(at, entry);
}

void Deadlines::sift_down(uint32_t at, Entry entry) {
    for (;;) {
        uint32_t first = at * arity + 1;
        if (first >= size_) break;
        uint32_t last = first + arity < size_ ? first + arity : size_;
        uint32_t least = first;
        for (uint32_t child = first + 1; child < last; ++child)
            if (entries_[child].key < entries_[least].key) least = child;
        if (entry.key <= entries_[least].key) break;
        put(at, entries_[least]);
        at = least;
    }
    put(at, entry);
}

void Deadlines::remove_top() {
    entries_[0].thread->queued_at = ThreadBlock::unqueued;
    if (--size_) sift_down(0, entries_[size_]);
}

// Makes the first entry tell the truth: its key is its thread's deadline.
void Deadlines::settle_top() {
    while (size_) {
        Entry top = entries_[0];
        if (top.thread->deadline == top.key) return;
        if (top.thread->deadline == INT64_MAX) remove_top();
        else sift_down(0, {top.thread->deadline, top.thread});
    }
}

int64_t Deadlines::nearest() {
    settle_top();
    return size_ ? entries_[0].key : INT64_MAX;
}

ThreadBlock* Deadlines::pop_due(int64_t now) {
    settle_top();
    if (!size_ || entries_[0].key > now) return nullptr;
    ThreadBlock* thread = entries_[0].thread;
    remove_top();
    disarm(*thread);
    return thread;
}

}  // namespace copse

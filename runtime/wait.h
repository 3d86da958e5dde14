// Waiter: one source's claim on a parked thread. The one primitive under every wait.
//
// A thread that parks puts a Waiter into the list of each source it waits for: a descriptor's
// readers, another thread's joiners, later a lock's or a channel's queue. The Waiters live in the
// frame that waits, so waiting allocates nothing and waking cannot fail. The first source to fire
// takes all of the thread's Waiters out of their lists before the thread is made ready: no other
// source can find it any more, and no stale entry is ever left behind.
//
// Invariants:
//  - A Waiter is in a list exactly while its thread is parked in the wait that made it.
//  - A list owner may fire a Waiter; only the loop makes the thread ready.
#pragma once

namespace copse {

struct ThreadBlock;

// Membership in a ring; a link that is in none is a ring of its own. Leaving needs no knowledge of
// the list.
struct Link {
    Link* next = this;
    Link* prev = this;

    Link() = default;
    Link(const Link&) = delete;
    Link& operator=(const Link&) = delete;

    bool linked() const { return next != this; }
    void unlink() {
        next->prev = prev;
        prev->next = next;
        next = prev = this;
    }
    void insert_before(Link& other) {
        next = &other;
        prev = other.prev;
        prev->next = this;
        other.prev = this;
    }
};

struct Waiter : Link {
    explicit Waiter(ThreadBlock* waiting, Waiter* other = nullptr)
        : thread{waiting}, sibling{other} {}

    ThreadBlock* const thread;
    Waiter* const sibling;  // another Waiter of the same wait (wait on either of two sources)
    bool fired = false;     // this source was the first
};

// First come, first served.
class WaitList {
  public:
    bool empty() const { return !ring_.linked(); }
    void append(Waiter& waiter) { waiter.insert_before(ring_); }
    Waiter* first() { return empty() ? nullptr : static_cast<Waiter*>(ring_.next); }

  private:
    Link ring_;
};

}  // namespace copse

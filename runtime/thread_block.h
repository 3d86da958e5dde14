// ThreadBlock: what the loop knows of a thread; its control block.
//
// Blocks are dense in a SlotTable of their own rather than at the top of the stacks: twice as fast
// among 100,000 threads, and a stale handle can be looked at safely. A block keeps the stack it was
// first given for as long as the loop lives, so a thread that starts where one has ended touches
// neither malloc nor the kernel.
//
// What is asked for seldom, and of living threads only, is not in the block but in ThreadDetails, at
// the top of the stack: that page is in memory anyway.
#pragma once

#include "runtime/system.h"
#include "runtime/wait.h"

#include <copse/thread.h>

namespace copse {

enum class State : uint8_t {
    free,     // no thread: on a list of blocks to be used again, or not yet launched
    ready,    // in one ready ring; sp is valid
    running,  // on the processor; sp is stale
    parked,   // in no ring; its waiters, its deadline or somebody's handle will make it ready
};

// The usable part of a stack; its guard lies right below.
struct Stack {
    char* base = nullptr;
    uint32_t valgrind_id = 0;
    uint8_t size_class = 0;
    Guard guard = Guard::kernel;

    size_t size() const { return size_t(16384) << size_class; }
    char* top() const { return base + size(); }
};

// What the C++ ABI keeps per OS thread about exceptions in flight; kept per thread here.
struct ExceptionState {
    void* caught = nullptr;
    unsigned uncaught = 0;
#ifdef __ARM_EABI__
    void* propagating = nullptr;
#endif
    bool any() const { return caught || uncaught; }
};

// Who hears of failures; its function is null where there is nobody.
struct Handler {
    ErrorHandler function = nullptr;
    detail::HandlerCaller call = nullptr;  // calls it where exceptions are understood
    void* context = nullptr;
};

struct LocalValue;

// Of a living thread. In no thread's way: all of its frames lie below.
struct alignas(64) ThreadDetails {
    // What a start touches: one cache line.
    void (*body)(void* room);
    void* room;              // the closure, right below this
    const void* spawned_by;  // an address in the code that added it
    LocalValue* locals;      // newest first
    Handler handler;
    char name[32];
    ExceptionState in_flight;
    uint64_t fp_environment;
};

struct alignas(64) ThreadBlock {
    // What a switch touches: one cache line ------------------------------------------------------
    void* sp = nullptr;
    ThreadBlock* next = nullptr;  // on a list of blocks to be used again
    Waiter* waiters = nullptr;    // of the wait it is parked in; the others are its siblings
    State state = State::free;

    // Why a switch from or to this thread has more to do than to switch.
    enum Special : uint8_t {
        own_fp = 1,      // its floating-point environment is its own
        canary = 2,      // the stack has no guard but its painted words
        exceptions = 4,  // in_flight holds what was so when it left
    };
    uint8_t special = 0;
    bool canceled = false;   // sticky: every later parking call fails
    bool timed_out = false;  // the deadline of the current wait has come
    bool permit = false;     // unpark() came, park() has not yet returned for it
    bool awaits_permit = false;  // parked in park()
    uint16_t refusals = 0;       // parking calls made since it was canceled

    // Time ---------------------------------------------------------------------------------------
    static constexpr uint32_t unqueued = UINT32_MAX;
    int64_t deadline = INT64_MAX;   // of the current wait; INT64_MAX: none
    int64_t scope_end = INT64_MAX;  // the nearest enclosing Timeout
    uint32_t queued_at = unqueued;  // where its node is in the loop's Deadlines

    uint32_t slot = 0;
    uint32_t generation = 1;
    int waits_on = -1;  // a descriptor, for dump()

    // The rest: another ----------------------------------------------------------------------------
    const char* waits_for = nullptr;  // a word, for dump()
    int64_t since = 0;                // the loop's time when it parked, for dump()
    WaitList joiners;
    ThreadDetails* details = nullptr;
    Stack stack;
    void* sanitizer = nullptr;  // ASan's fake stack or TSan's fiber

    bool exists() const { return state != State::free; }
};
static_assert(sizeof(void*) != 8 || sizeof(ThreadBlock) == 128);

namespace detail {
// How the runtime makes handles of blocks and finds blocks again.
struct Access {
    static Thread handle(const ThreadBlock& block) { return Thread{block.slot, block.generation}; }
    static uint32_t slot(Thread t) { return t.slot_; }
    static uint32_t generation(Thread t) { return t.generation_; }
};
}  // namespace detail

}  // namespace copse

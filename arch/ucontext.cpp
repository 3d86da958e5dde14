// Switch by ucontext: for a processor without a file of its own, where libc has swapcontext.
//
// A context is the address of a ucontext_t on the suspended stack. A new stack, from its top down:
//
//      Start     the ucontext_t of a thread that has not run, its entry and its argument
//      frames    of makecontext's making, then the thread's own
//
// It costs a system call a switch, because swapcontext also exchanges the signal mask: each
// context has one, a new context that of whoever prepared it. Where the processor's ucontext_t
// holds the floating-point environment (x86, AArch64) each context has its own of that too.
//
// Invariants:
//  - A Start outlives the first switch to it: nothing is built above the stack's first frame.
#include "arch/context.h"

#include <ucontext.h>

namespace {

struct Start {
    ucontext_t context;  // first: the context's address is the Start's
    void* (*entry)(void*);
    void* argument;
};

// makecontext is told where a stack begins and how long it is, but uses the sum alone.
constexpr size_t nominal_size = 4096;

// makecontext hands on ints only, so an address travels in two of them.
void begin(unsigned high, unsigned low) {
    auto address = static_cast<uintptr_t>(static_cast<uint64_t>(high) << 32 | low);
    auto* start = reinterpret_cast<Start*>(address);
    setcontext(static_cast<ucontext_t*>(start->entry(start->argument)));
    __builtin_trap();
}

}  // namespace

extern "C" {

void copse_switch(void** from, void* to) noexcept {
    ucontext_t here;
    *from = &here;
    if (swapcontext(&here, static_cast<ucontext_t*>(to)) != 0) __builtin_trap();
}

void* copse_prepare(void* top, void* (*entry)(void*), void* argument) noexcept {
    uintptr_t place = (reinterpret_cast<uintptr_t>(top) - sizeof(Start)) & ~uintptr_t{63};
    auto* start = reinterpret_cast<Start*>(place);
    if (getcontext(&start->context) != 0) __builtin_trap();
    start->entry = entry;
    start->argument = argument;
    start->context.uc_link = nullptr;
    start->context.uc_stack.ss_sp = reinterpret_cast<char*>(start) - nominal_size;
    start->context.uc_stack.ss_size = nominal_size;
    auto address = static_cast<uint64_t>(place);
    makecontext(&start->context, reinterpret_cast<void (*)()>(begin), 2,
                static_cast<unsigned>(address >> 32), static_cast<unsigned>(address));
    return &start->context;
}

// A thread that asks for its own environment has it already, and the others must not: so there is
// nothing to exchange.
uint64_t copse_fp_environment(void) noexcept { return 0; }
void copse_set_fp_environment(uint64_t) noexcept {}
}

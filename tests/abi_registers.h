// Registers: the callee-saved ones of this processor, and a walk that finds out which are lost.
//
// 64 contexts switch among each other in random order. Before each switch, abi_switch_checked (in
// assembly) fills every callee-saved register with a value that no other context and no other
// switch uses, and after it compares.
//
// Invariants:
//  - A port that loses a register does not harm the test itself: abi_switch_checked keeps what the
//    compiler's code needs on its own stack.
#pragma once

#include "arch/context.h"

#include <stdlib.h>

// In the order of the bits that abi_switch_checked returns.
#if defined(__x86_64__)
#define ABI_REGISTERS(each) each(rbx) each(rbp) each(r12) each(r13) each(r14) each(r15)
#elif defined(__aarch64__)
#define ABI_REGISTERS(each)                                                                        \
    each(x19) each(x20) each(x21) each(x22) each(x23) each(x24) each(x25) each(x26) each(x27)      \
        each(x28) each(x29) each(d8) each(d9) each(d10) each(d11) each(d12) each(d13) each(d14)    \
            each(d15)
#endif

using Switch = void (*)(void** from, void* to);
using Prepare = void* (*)(void* top, void* (*entry)(void*), void* argument);

extern "C" uint64_t abi_switch_checked(void** from, void* to, uint64_t pattern, Switch);

namespace abi {

struct Walk {
    static constexpr int contexts = 64;
    static constexpr size_t stack_size = 64 * 1024;

    Switch change = nullptr;
    long left = 0;  // switches still to make
    void* home = nullptr;
    void* context[contexts] = {};
    char* stack[contexts] = {};
    uint64_t random = 0x9e3779b97f4a7c15u;
    uint64_t lost = 0;
    long resumed[contexts] = {};

    // xorshift, so that every run makes the same walk.
    uint64_t next() {
        random ^= random << 13;
        random ^= random >> 7;
        return random ^= random << 17;
    }
};

struct Walker {
    Walk* walk;
    int self;
};

inline void* wander(void* argument) {
    Walk& walk = *static_cast<Walker*>(argument)->walk;
    int self = static_cast<Walker*>(argument)->self;
    for (;;) {
        uint64_t pattern = walk.next();
        int to = static_cast<int>(pattern >> 32) & (Walk::contexts - 1);
        if (to == self) continue;
        bool last = --walk.left < 0;
        void* target = last ? walk.home : walk.context[to];
        walk.lost |= abi_switch_checked(&walk.context[self], target, pattern, walk.change);
        ++walk.resumed[self];
    }
}

struct Found {
    uint64_t lost;            // a bit for each register that was lost at least once
    long fewest_resumptions;  // of any context
};

// Makes that many switches.
inline Found walk_at_random(Switch change, Prepare prepare, long switches) {
    static constinit Walk walk{};
    walk = Walk{change, switches};
    Walker walkers[Walk::contexts];
    for (int i = 0; i < Walk::contexts; ++i) {
        walk.stack[i] = static_cast<char*>(malloc(Walk::stack_size));
        walkers[i] = {&walk, i};
        walk.context[i] = prepare(walk.stack[i] + Walk::stack_size, wander, &walkers[i]);
    }
    walk.lost |= abi_switch_checked(&walk.home, walk.context[0], 0x0123456789abcdef, change);
    for (char* each : walk.stack) free(each);
    Found found = {walk.lost, switches};
    for (long each : walk.resumed)
        if (each < found.fewest_resumptions) found.fewest_resumptions = each;
    return found;
}

}  // namespace abi

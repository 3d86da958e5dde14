// Visit: a call on another stack that may be left and taken up again, for the tests of arch/.
#pragma once

#include "arch/context.h"

#include <stdlib.h>
#ifdef __GLIBC__
#include <execinfo.h>
#endif

namespace abi {

constexpr size_t stack_size = 64 * 1024;

struct Stack {
    char* bottom = static_cast<char*>(malloc(stack_size));
    ~Stack() { free(bottom); }
    char* top() const { return bottom + stack_size; }
};

// run() goes there; the body may come home() and be run on; when it returns it is home for good.
struct Visit {
    void* here = nullptr;
    void* there = nullptr;
    void (*body)(Visit&, void*);
    void* data;
    bool over = false;

    template <class Body>
    Visit(char* top, Body& code)
        : body([](Visit& visit, void* data) { (*static_cast<Body*>(data))(visit); }), data(&code) {
        there = copse_prepare(top, begin, this);
    }
    static void* begin(void* argument) {
        auto* visit = static_cast<Visit*>(argument);
        visit->body(*visit, visit->data);
        visit->over = true;
        return visit->here;
    }
    void run() { copse_switch(&here, there); }
    void home() { copse_switch(&there, here); }
};

template <class Body> void on_new_stack(Body body) {
    Stack stack;
    Visit visit(stack.top(), body);
    while (!visit.over) visit.run();
}

// Out of the optimiser's sight.
template <class T> T opaque(T value) {
    __asm__ volatile("" : "+r"(value) : : "memory");
    return value;
}

#ifdef __GLIBC__
#define ABI_BACKTRACE
struct Trace {
    void* frame[64];
    int count;
};

__attribute__((noinline)) inline int trace_at_depth(int depth, Trace& trace) {
    int below = 0;
    if (depth == 0)
        trace.count = backtrace(trace.frame, 64);
    else
        below = trace_at_depth(opaque(depth) - 1, trace);
    return opaque(below) + 1;  // not a tail call
}
#endif

}  // namespace abi

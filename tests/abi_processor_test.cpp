// Processor test: what a port written in assembly promises beyond the others.
#define TEST_WITHOUT_MAIN
#include "abi_trampoline.h"
#include "abi_visit.h"
#include "test.h"

#include <fenv.h>
#include <float.h>
#include <string.h>

using abi::opaque;

// A thread that has not run yet is to cost one page.
TEST(making_a_context_writes_less_than_200_bytes) {
    abi::Stack stack;
    memset(stack.bottom, 0xa5, abi::stack_size);
    copse_prepare(
        stack.top(), [](void*) -> void* { return nullptr; }, nullptr);
    int changed = 0;
    for (char* each = stack.bottom; each < stack.top() - 200; ++each)
        changed += *each != static_cast<char>(0xa5);
    CHECK_EQ(changed, 0);
}

TEST(floating_point_words_are_control_words_only) {
    feclearexcept(FE_ALL_EXCEPT);
    uint64_t usual = copse_fp_environment();
    opaque(opaque(1.0) / opaque(3.0));
    CHECK(fetestexcept(FE_INEXACT));
    CHECK(copse_fp_environment() == usual);
    copse_set_fp_environment(usual);
    CHECK(fetestexcept(FE_INEXACT));  // what has happened stays on record

#ifdef __x86_64__
    constexpr uint64_t flush_to_zero = 1 << 15;
#else
    constexpr uint64_t flush_to_zero = 1 << 24;
#endif
    copse_set_fp_environment(usual | flush_to_zero);
    CHECK(copse_fp_environment() == (usual | flush_to_zero));
    CHECK(opaque(opaque(DBL_MIN) / opaque(2.0)) == 0);
    copse_set_fp_environment(usual);
    CHECK(opaque(opaque(DBL_MIN) / opaque(2.0)) != 0);
}

TEST(a_backtrace_ends_in_the_trampoline) {
#ifndef ABI_BACKTRACE
    test::skip("this libc has no backtrace()");
#else
    for (int depth = 0; depth < 20; ++depth) {
        abi::Trace trace;
        abi::on_new_stack([&](abi::Visit&) { opaque(abi::trace_at_depth(opaque(depth), trace)); });
        CHECK(trace.count > depth + 1);
        CHECK(abi::in_trampoline(trace.frame[trace.count - 1]));
        CHECK(!abi::in_trampoline(trace.frame[trace.count - 2]));
    }
#endif
}

// Profilers walk frame pointers: the entry's caller must not appear to have a frame.
static void *home, *away, *caller_frame = &home;

static void* note_caller_frame(void*) {
    caller_frame = *static_cast<void**>(__builtin_frame_address(0));
    return opaque(home);
}

TEST(a_chain_of_frame_pointers_ends_in_the_trampoline) {
    abi::Stack stack;
    memset(stack.bottom, 0xa5, abi::stack_size);
    away = copse_prepare(stack.top(), note_caller_frame, nullptr);
    copse_switch(&home, away);
    CHECK(caller_frame == nullptr);
}

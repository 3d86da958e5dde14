// ABI test: what arch/context.h promises, asked of any port.
//
// Built for each port at each optimisation level, straight from the port's file. What needs
// assembly to ask is in abi_registers_test.cpp, what only a processor's own port promises in
// abi_processor_test.cpp.
#include "abi_visit.h"
#include "test.h"

#include <fenv.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>

using abi::on_new_stack;
using abi::opaque;
using abi::Stack;
using abi::stack_size;
using abi::Visit;

// Entering ---------------------------------------------------------------------------------------

TEST(the_entry_gets_its_argument_whole) {
    static void *home, *away, *got;
    Stack stack;
    void* argument = reinterpret_cast<void*>(static_cast<uintptr_t>(0xfedcba9876543210u));
    auto entry = [](void* argument) {
        got = argument;
        return home;
    };
    away = copse_prepare(stack.top(), entry, argument);
    copse_switch(&home, away);
    CHECK(got == argument);
}

// A row of a hundred, each beginning where the one before has ended, on one stack or the other.
TEST(an_entry_may_return_a_context_that_has_not_begun) {
    struct Row {
        Stack stack[2];
        int begun = 0;
        void* home = nullptr;
    } row;
    using Entry = void* (*)(void*);
    static Entry entry;
    entry = [](void* argument) -> void* {
        Row& row = *static_cast<Row*>(argument);
        if (++row.begun == 100) return row.home;
        return copse_prepare(row.stack[row.begun % 2].top(), entry, argument);
    };
    copse_switch(&row.home, copse_prepare(row.stack[0].top(), entry, &row));
    CHECK_EQ(row.begun, 100);
}

TEST(an_entry_may_return_a_context_that_is_suspended) {
    int steps = 0;
    auto body = [&](Visit& visit) {
        ++steps;
        visit.home();
        ++steps;
    };
    Stack stack, other_stack;
    Visit visit(stack.top(), body);
    visit.run();
    CHECK_EQ(steps, 1);
    static void* suspended;
    suspended = visit.there;
    auto entry = [](void*) { return suspended; };
    copse_switch(&visit.here, copse_prepare(other_stack.top(), entry, nullptr));
    CHECK_EQ(steps, 2);
    CHECK(visit.over);
}

TEST(locals_and_varargs_are_aligned_in_a_new_context) {
    char expected[200], got[200];
    auto print = [](char* out) {
        alignas(64) char text[200];
        alignas(32) double table[4] = {1.5, 2.5, 3.5, 4.5};
        CHECK_EQ(reinterpret_cast<uintptr_t>(opaque(&text[0])) & 63, 0u);
        CHECK_EQ(reinterpret_cast<uintptr_t>(opaque(&table[0])) & 31, 0u);
        long double third = 1.0L / opaque(3);
        snprintf(text, sizeof text, "%Lf %La %f %g %e %d %f %f %f %f %f %f %f %Lg", third, third,
                 table[0], table[1], table[2], 7, table[3], 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, third);
        memcpy(out, text, sizeof text);
    };
    print(expected);
    on_new_stack([&](Visit&) { print(got); });
    CHECK(strcmp(expected, got) == 0);
    CHECK(strstr(got, "0.333333 ") == got);
}

TEST(making_a_context_touches_only_its_room) {
    constexpr size_t above = 256;
    auto* memory = static_cast<unsigned char*>(malloc(stack_size + above));
    for (int offset = 0; offset < 70; offset += 23) {
        memset(memory, 0xa5, stack_size + above);
        unsigned char* top = memory + stack_size - offset;
        copse_prepare(
            top, [](void*) -> void* { return nullptr; }, nullptr);
        size_t changed = 0;
        for (unsigned char* each = memory; each < top - context_room; ++each)
            changed += *each != 0xa5;
        for (unsigned char* each = top; each < memory + stack_size + above; ++each)
            changed += *each != 0xa5;
        CHECK_EQ(changed, 0u);
    }
    free(memory);
}

struct SignalState {
    sigset_t mask;
    stack_t stack;
    struct sigaction action[65];

    void read() {
        pthread_sigmask(SIG_SETMASK, nullptr, &mask);
        sigaltstack(nullptr, &stack);
        for (int i = 1; i < 65; ++i) sigaction(i, nullptr, &action[i]);
    }
    bool same_as(const SignalState& other) const {
        bool same = stack.ss_sp == other.stack.ss_sp && stack.ss_size == other.stack.ss_size &&
                    stack.ss_flags == other.stack.ss_flags;
        for (int i = 1; i < 65; ++i) {
            same &= sigismember(&mask, i) == sigismember(&other.mask, i);
            same &= action[i].sa_handler == other.action[i].sa_handler;
            same &= flags(i) == other.flags(i);
        }
        return same;
    }
    // Libc's own flag, set by it whenever an action is, even to what it was.
    int flags(int i) const {
#ifdef SA_RESTORER
        return action[i].sa_flags & ~SA_RESTORER;
#else
        return action[i].sa_flags & ~0x04000000;
#endif
    }
};
static SignalState signals_before, signals_during, signals_after;

// With a mask, an action and an alternate stack of its own, as a program has them.
TEST(signals_are_left_as_they_were) {
    Stack spare;
    stack_t alternate = {};
    alternate.ss_sp = spare.bottom;
    alternate.ss_size = stack_size;
    CHECK_EQ(sigaltstack(&alternate, nullptr), 0);
    struct sigaction action = {};
    action.sa_handler = [](int) {};
    sigaction(SIGUSR2, &action, nullptr);
    sigset_t some;
    sigemptyset(&some);
    sigaddset(&some, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &some, nullptr);
    raise(SIGUSR1);  // waits to be delivered: nothing may let it through

    signals_before.read();
    on_new_stack([&](Visit& visit) {
        signals_during.read();
        visit.home();
    });
    signals_after.read();
    CHECK(signals_during.same_as(signals_before));
    CHECK(signals_after.same_as(signals_before));
    sigset_t waiting;
    sigpending(&waiting);
    CHECK(sigismember(&waiting, SIGUSR1) == 1);
    signal(SIGUSR1, SIG_IGN);
    alternate.ss_flags = SS_DISABLE;
    sigaltstack(&alternate, nullptr);
}

// Switching --------------------------------------------------------------------------------------

// 120 bytes of locals in a function that calls nothing else would lie below the stack pointer if
// the compiler did not know that the switch is a call.
__attribute__((noinline)) static uint64_t sum_around_a_switch(Visit& visit, uint64_t seed) {
    uint64_t local[15];
    for (uint64_t& each : local) each = seed = seed * 6364136223846793005u + 1442695040888963407u;
    __asm__ volatile("" : "+m"(local));
    visit.run();
    __asm__ volatile("" : "+m"(local));
    uint64_t sum = 0;
    for (uint64_t each : local) sum += each;
    return sum;
}

TEST(locals_below_the_stack_pointer_survive) {
    uint64_t expected = 0, seed = 7;
    for (int i = 0; i < 15; ++i)
        expected += seed = seed * 6364136223846793005u + 1442695040888963407u;
    Stack stack;
    auto body = [&](Visit& visit) {
        for (int i = 0; i < 1000; ++i) {
            char scratch[512];
            memset(scratch, i, sizeof scratch);
            __asm__ volatile("" : "+m"(scratch));
            visit.home();
        }
    };
    Visit visit(stack.top(), body);
    for (int i = 0; i < 1000; ++i) CHECK_EQ(sum_around_a_switch(visit, 7), expected);
}

TEST(an_exception_is_caught_inside_its_context) {
#ifdef __cpp_exceptions
    struct Counted {
        int& count;
        ~Counted() { ++count; }
    };
    int destroyed = 0, caught = 0;
    on_new_stack([&](Visit& visit) {
        for (int i = 0; i < 3; ++i) {
            try {
                Counted counted{destroyed};
                visit.home();
                if (opaque(i) >= 0) throw i;
            } catch (int value) { caught += value == i; }
            visit.home();
        }
    });
    CHECK_EQ(caught, 3);
    CHECK_EQ(destroyed, 3);
#else
    test::skip("built without exceptions");
#endif
}

// A checked longjmp compares stack addresses, and contexts lie above and below each other.
static void jump_about(char* top) {
    int jumps = 0;
    auto body = [&](Visit& visit) {
        static jmp_buf mark;
        volatile int round = 0;
        if (setjmp(mark) != 0) ++jumps;
        visit.home();
        if (round < 5) {
            round = round + 1;
            [](int depth) {
                char scratch[256];
                memset(scratch, depth, sizeof scratch);
                __asm__ volatile("" : "+m"(scratch));
                longjmp(mark, 1);
            }(round);
        }
    };
    Visit visit(top, body);
    while (!visit.over) visit.run();
    CHECK_EQ(jumps, 5);
}

TEST(longjmp_works_inside_a_context) {
    Stack below;
    jump_about(below.top());
    alignas(16) char above[stack_size];  // further up than any frame of what is called from here
    jump_about(opaque(above + stack_size));
}

TEST(a_context_may_be_made_on_another_os_thread) {
    static int visits;
    visits = 0;
    Stack stack;
    auto body = [](Visit&) { ++visits; };
    Visit visit(stack.top(), body);
    auto run = [](void* argument) -> void* {
        static_cast<Visit*>(argument)->run();
        return nullptr;
    };
    pthread_t other;
    REQUIRE(pthread_create(&other, nullptr, run, &visit) == 0);
    pthread_join(other, nullptr);
    CHECK_EQ(visits, 1);
}

TEST(os_threads_make_contexts_at_the_same_time) {
    auto make_many = [](void* argument) -> void* {
        for (int i = 0; i < 10'000; ++i)
            on_new_stack([&](Visit& visit) {
                visit.home();
                ++*static_cast<int*>(argument);
            });
        return nullptr;
    };
    pthread_t other[4];
    int visits[4] = {};
    for (int i = 0; i < 4; ++i)
        REQUIRE(pthread_create(&other[i], nullptr, make_many, &visits[i]) == 0);
    for (pthread_t each : other) pthread_join(each, nullptr);
    for (int each : visits) CHECK_EQ(each, 10'000);
}

// Floating point ---------------------------------------------------------------------------------

[[maybe_unused]] static double third() { return opaque(1.0) / opaque(3.0); }

// Exchanges the words as the scheduler does for a thread that has its own.
[[maybe_unused]] static void switch_with_words(void** from, void* to, uint64_t words) {
    uint64_t mine = copse_fp_environment();
    copse_set_fp_environment(words);
    copse_switch(from, to);
    copse_set_fp_environment(mine);
}

TEST(floating_point_words_are_kept_for_who_asks) {
#ifdef ABI_SIGALTSTACK
    test::skip("this port shares the words among all contexts");
#else
    uint64_t usual = copse_fp_environment();
    double nearest = third(), up = 0;
    long double long_up = 0;
    auto body = [&](Visit& visit) {
        fesetround(FE_UPWARD);
        up = third();
        long_up = 1.0L / opaque(3);
        for (int i = 0; i < 100; ++i) {
            switch_with_words(&visit.there, visit.here, usual);
            CHECK_EQ(fegetround(), FE_UPWARD);
            CHECK(third() == up);
            CHECK(1.0L / opaque(3) == long_up);
        }
        fesetround(FE_TONEAREST);
    };
    Stack stack;
    Visit visit(stack.top(), body);
    while (!visit.over) {
        visit.run();
        CHECK_EQ(fegetround(), FE_TONEAREST);
        CHECK(third() == nearest);
    }
    CHECK(up > nearest);
#endif
}

// Unwinding --------------------------------------------------------------------------------------

static void marker() {}

// Leaves code addresses all over the stack that whoever made a context has since left.
[[maybe_unused]] __attribute__((noinline)) static void scribble_below() {
    void (*frame[1024])();
    for (auto& each : frame) each = marker;
    __asm__ volatile("" : "+m"(frame));
}

TEST(a_backtrace_ends_where_the_context_begins) {
#ifndef ABI_BACKTRACE
    test::skip("this libc has no backtrace()");
#else
    abi::Trace home, shallow, deep;
    opaque(trace_at_depth(opaque(3), home));
    auto body = [&](Visit& visit) {
        opaque(trace_at_depth(opaque(3), shallow));
        visit.home();
        opaque(trace_at_depth(opaque(20), deep));
    };
    Stack stack;
    Visit visit(stack.top(), body);
    while (!visit.over) {
        scribble_below();
        visit.run();
    }
    CHECK(shallow.count > 3);
    CHECK_EQ(deep.count - shallow.count, 17);
    void* start = home.frame[home.count - 1];  // of the program
    for (int i = 0; i < deep.count; ++i)
        CHECK(deep.frame[i] != start && deep.frame[i] != reinterpret_cast<void*>(marker));
#endif
}

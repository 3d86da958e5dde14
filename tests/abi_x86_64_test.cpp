// x86-64 test: the x87 unit's late reports, and the unwind tables of every single instruction.
#define TEST_WITHOUT_MAIN
#include "abi_trampoline.h"
#include "abi_visit.h"
#include "test.h"

#include <fenv.h>
#include <signal.h>

using abi::opaque;

// x87 reports an exception at the next instruction: by then another thread may be running, one
// that has asked to be told of its own.
TEST(a_masked_exception_of_one_thread_does_not_strike_another) {
    constexpr uint64_t divide_by_zero_masked = uint64_t{4} << 32;
    uint64_t usual = copse_fp_environment();
    volatile long double result = opaque(1) / static_cast<long double>(opaque(0));
    CHECK(fetestexcept(FE_DIVBYZERO));
    copse_set_fp_environment(usual & ~divide_by_zero_masked);
    __asm__ volatile("fwait");
    CHECK(copse_fp_environment() == (usual & ~divide_by_zero_masked));
    copse_set_fp_environment(usual);
    (void)result;
}

#if defined(ABI_BACKTRACE) && defined(__linux__)
#define ABI_STEP

// Two contexts, single-stepped by the processor's trap flag through their switches; the handler
// asks for a backtrace at every instruction.
namespace step {

int steps, wrong;
void* caller;  // where both contexts call the switch: the return address
void *home, *one, *other;

void check(void* rip) {
    void* frame[64];
    int count = backtrace(frame, 64), here = 0;
    while (here < count && frame[here] != rip) ++here;
    ++steps;
    if (here + 2 > count || !abi::in_trampoline(frame[count - 1])) {
        ++wrong;
        return;
    }
    wrong += frame[here + 1] != caller;
}

void trap(int, siginfo_t*, void* interrupted) {
    auto& registers = static_cast<ucontext_t*>(interrupted)->uc_mcontext.gregs;
    auto rip = static_cast<uintptr_t>(registers[REG_RIP]);
    auto entry = reinterpret_cast<uintptr_t>(&copse_switch);
    if (rip < entry || rip >= reinterpret_cast<uintptr_t>(&copse_prepare)) return;
    if (rip == entry) caller = *reinterpret_cast<void**>(registers[REG_RSP]);
    check(reinterpret_cast<void*>(rip));
}

__attribute__((noinline)) void hop(void** from, void** to) {
    copse_switch(from, *to);
    __asm__ volatile("" : : : "memory");
}

// Leaves alone what a compiler may have put below the stack pointer.
void trap_flag(bool on) {
    uint64_t flag = on ? 0x100 : 0;
    __asm__ volatile("lea -128(%%rsp), %%rsp\n\t"
                     "pushfq\n\t"
                     "andq $~0x100, (%%rsp)\n\t"
                     "orq %0, (%%rsp)\n\t"
                     "popfq\n\t"
                     "lea 128(%%rsp), %%rsp"
                     :
                     : "r"(flag)
                     : "memory", "cc");
}

void* begin_one(void*) {
    trap_flag(true);
    for (int i = 0; i < 3; ++i) hop(opaque(&one), opaque(&other));
    trap_flag(false);
    return home;
}

void* begin_other(void*) {
    for (;;) hop(opaque(&other), opaque(&one));
}

}  // namespace step
#endif

TEST(an_unwinder_is_right_at_every_instruction_of_the_switch) {
#ifndef ABI_STEP
    test::skip("needs backtrace() and Linux's view of the registers");
#else
    void* frame[8];
    backtrace(frame, 8);  // loads what it needs now, not in the handler
    struct sigaction action = {};
    action.sa_sigaction = step::trap;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGTRAP, &action, nullptr);
    abi::Stack stack, other_stack;
    step::one = copse_prepare(stack.top(), step::begin_one, nullptr);
    step::other = copse_prepare(other_stack.top(), step::begin_other, nullptr);
    copse_switch(&step::home, step::one);
    if (step::steps == 0) test::skip("nothing here steps the processor");
    // Six switches of eighteen instructions; the first is left after ten, for the trampoline.
    CHECK_EQ(step::steps, 5 * 18 + 10);
    CHECK_EQ(step::wrong, 0);
#endif
}

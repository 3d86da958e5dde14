// Registers test: what is in the processor when a context is entered and when it is taken up
// again. Built for every port, on the processors that have an abi_<processor>.S.
#define TEST_WITHOUT_MAIN
#include "abi_registers.h"
#include "abi_visit.h"
#include "test.h"

extern "C" void* abi_entry(void*);

TEST(callee_saved_registers_survive_a_million_switches) {
    abi::Found found = abi::walk_at_random(copse_switch, copse_prepare, 1'000'000);
    CHECK_EQ(found.lost, 0u);
    CHECK(found.fewest_resumptions > 10'000);  // of the million, 15,625 are each context's share
    uint64_t bit = 1;
#define REPORT(name)                                                                               \
    if (found.lost & bit) fprintf(stderr, "    %s was lost\n", #name);                             \
    bit <<= 1;
    ABI_REGISTERS(REPORT)
}

TEST(callee_saved_registers_survive_a_context_that_ends) {
    static void* home;
    uint64_t lost = 0;
    abi::Stack stack;
    for (uint64_t i = 1; i <= 1000; ++i) {
        auto end = [](void*) -> void* {
            uint64_t words[32];
            for (uint64_t& each : words) each = abi::opaque(~uint64_t{0});
            abi::opaque(&words[0]);
            return home;
        };
        void* context = copse_prepare(stack.top(), end, nullptr);
        lost |= abi_switch_checked(&home, context, i * 0x9e3779b97f4a7c15u, copse_switch);
    }
    CHECK_EQ(lost, 0u);
}

TEST(the_entry_finds_its_stack_aligned) {
    struct Probe {
        uintptr_t sp;
        void* (*next)(void*);
        void *home, *away;
    } probe;
    probe.next = [](void* argument) { return static_cast<Probe*>(argument)->home; };
    abi::Stack stack;
    for (int offset = 0; offset < 130; ++offset) {  // a port aligns what it is given
        char* top = stack.top() - offset;
        probe.away = copse_prepare(top, abi_entry, &probe);
        copse_switch(&probe.home, probe.away);
        CHECK(probe.sp <= reinterpret_cast<uintptr_t>(top));
        CHECK(probe.sp > reinterpret_cast<uintptr_t>(top) - context_room);
#ifdef __x86_64__
        CHECK_EQ(probe.sp & 15, 8u);  // a return address above a multiple of 16
#else
        CHECK_EQ(probe.sp & 15, 0u);
#endif
    }
}

// Mutants: the test of the registers is only worth something if it can fail.
//
// The build makes a copy of this processor's port for each callee-saved register, in which the
// switch stores another register in its place, and gives its functions a name of their own.
#include "abi_registers.h"
#include "test.h"

#ifndef ABI_REGISTERS
#error "no mutants for this processor"
#endif

#define DECLARE(name)                                                                              \
    extern "C" void mutant_##name##_switch(void** from, void* to);                                 \
    extern "C" void* mutant_##name##_prepare(void* top, void* (*entry)(void*), void* argument);
ABI_REGISTERS(DECLARE)

struct Mutant {
    const char* name;
    Switch change;
    Prepare prepare;
};

#define ENTRY(name) {#name, mutant_##name##_switch, mutant_##name##_prepare},
constexpr Mutant mutants[] = {ABI_REGISTERS(ENTRY)};

// The register that is not kept is reported as lost, and no other.
TEST(a_register_that_is_not_kept_is_noticed) {
    uint64_t expected = 1;
    for (const Mutant& each : mutants) {
        uint64_t lost = abi::walk_at_random(each.change, each.prepare, 1000).lost;
        if (lost != expected) fprintf(stderr, "mutant without %s:\n", each.name);
        CHECK_EQ(lost, expected);
        expected <<= 1;
    }
}

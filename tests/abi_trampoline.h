// Trampoline: where every context of a port in assembly begins, and every backtrace of one ends.
#pragma once

#include <stdint.h>

extern "C" __attribute__((visibility("hidden"))) void copse_trampoline(void);

namespace abi {

inline bool in_trampoline(void* address) {
    auto start = reinterpret_cast<uintptr_t>(&copse_trampoline);
    auto place = reinterpret_cast<uintptr_t>(address);
    return start < place && place < start + 32;
}

}  // namespace abi

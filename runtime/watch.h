// Watch: a descriptor registered with the poller, and who waits for it.
//
// Registered once for both directions, edge-triggered, and never modified. The token is {slot,
// generation}, never the descriptor or a pointer: an event of a descriptor that was closed, even
// one collected in the same batch, finds another generation and is dropped.
//
// What the poller said is sticky, one bit a direction. A call goes to the kernel only while its bit
// is set, and its caller clears the bit when the kernel answers EAGAIN, or when a short count shows
// that there is nothing more (and the peer has not hung up: then there may be an end to read).
//
// Invariants:
//  - A thread waits on a direction only after that bit was found clear, and the bit is cleared only
//    before the poller is asked again: no edge falls between.
//  - At most one thread waits per direction.
//  - The watch is removed from the poller before its descriptor is closed.
#pragma once

#include "runtime/wait.h"

#include <stdint.h>

namespace copse {

// Something of the layer above that has work for the end of the turn: bytes to write. Linked into
// the loop's list at most once.
struct Drainable {
    Drainable* next = nullptr;
    bool queued = false;
};

struct Watch {
    int fd = -1;
    uint32_t slot = 0;
    uint32_t generation = 1;
    uint32_t ready = 0;  // of PollEvent::Readiness
    WaitList readers;
    WaitList writers;
    Drainable* on_writable = nullptr;  // queued when the descriptor becomes writable
    Watch* next_free = nullptr;

    bool open() const { return fd >= 0; }
    uint64_t token() const { return uint64_t(generation) << 32 | slot; }
};

enum class Direction : uint8_t { read, write };

}  // namespace copse

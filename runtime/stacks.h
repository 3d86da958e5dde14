// Stacks: where threads stand. Carved from slabs, each above a guard, and never moved.
//
//      slab      ...
//                +--------------------+  top: coloured, so that equal frames of different threads
//                |  usable, 16 KiB,   |       do not fall into the same cache sets; the closure
//                |  32 KiB, 64 KiB .. |       lies there, the frames below it
//                +--------------------+  base
//                |  guard, 64 KiB     |  libc has frames of 33 KiB: a page would be jumped over
//                +--------------------+
//                      ...
//
// A guard is a kernel guard marker (no mapping of its own: a million guarded stacks in a few dozen
// mappings), else an inaccessible mapping, else, when mappings are nearly spent or there is no
// memory protection, painted words checked whenever the thread is switched out.
//
// Invariants:
//  - Slabs are unmapped with the loop, not before.
//  - A stack belongs to one ThreadBlock for as long as the loop lives.
#pragma once

#include "runtime/thread_block.h"

#include <bit>

namespace copse {

class Stacks {
  public:
    static constexpr size_t smallest = 16384;        // above AT_MINSIGSTKSZ + 8 KiB everywhere
    static constexpr size_t default_size = 65536;
#if defined(__aarch64__)
    // Compilers probe every 64 KiB there, the first time at the upper end: what lies between two
    // probes of a frame whose size is known only then may be twice that.
    static constexpr size_t guard_size = 131072;
#else
    static constexpr size_t guard_size = 65536;
#endif
    static constexpr uint32_t classes = 17;          // 16 KiB .. 1 GiB
    static constexpr size_t canary_size = 64;        // painted, at the base

    void open(const System& system) { system_ = &system; }
    void close();

    // The class whose stacks have at least `size` usable bytes; `classes` if there is none.
    static constexpr uint32_t class_of(size_t size) {
        if (size <= smallest) return 0;
        uint32_t bits = uint32_t(std::bit_width((size - 1) / smallest));
        return bits < classes ? bits : classes;
    }
    static constexpr uint32_t default_class() { return class_of(default_size); }

    // A stack never used before; base is null when memory is spent.
    Stack carve(uint32_t size_class);

    Guard guard() const { return guard_; }  // the kind that was used last

    static void paint(const Stack&);
    static bool painted(const Stack&);  // the canary is as it was painted

  private:
    struct Slab {
        Slab* previous;
        char* memory;
        size_t size;
    };
    struct Rest {  // what is left of a class's newest slab
        char* at = nullptr;
        size_t stacks = 0;
        size_t made = 0;  // stacks of all slabs so far: the next slab doubles them
    };

    bool grow(uint32_t size_class);
    Guard protect(char* guard);

    // Each inaccessible mapping splits its slab in two more; a process has 65,530 mappings unless
    // told otherwise, and the program needs some for itself.
    static constexpr uint32_t most_mprotected = 16000;

    const System* system_ = nullptr;
    Slab* slabs_ = nullptr;
    Rest rest_[classes];
    Guard guard_ = Guard::kernel;
    uint32_t mprotected_ = 0;
};

}  // namespace copse

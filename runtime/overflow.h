// Overflow: a thread that outgrows its stack dies with its name on standard error.
//
// The guard below every stack turns an overflow into a memory fault; a handler on a stack of its
// own recognises the address, says which thread it was, how large its stack is and where it was
// added, and lets the fault go on to whoever would have had it before: the program dies of it as it
// would have.
#pragma once

#include "runtime/system.h"

namespace copse {

struct ThreadBlock;

struct Overflow {
    static void catch_here(const System&);  // on this OS thread
    static void drop_here(const System&);

    // Says it. Called by the fault handler: touches nothing but the block and standard error.
    static void report(const System&, const ThreadBlock&);

  private:
    static bool on_fault(void* address);
};

}  // namespace copse

// Hosting: what a simulator needs of the runtime: several loops taking turns on one OS thread.
//
// A loop believes that it has an OS thread to itself. A Strand is that OS thread's stand-in: a
// stack of its own on which a simulated host's main program runs, with its own current loop, its
// own system table, its own errno and its own exceptions in flight. Whoever coordinates enters a
// strand; the host's program runs until one of its table's entries leaves it again.
//
// Invariants:
//  - Strands do not nest: enter() is called from outside, leave() from within.
//  - A strand is left only where its loop would have waited for the kernel, so the program cannot
//    tell that others ran meanwhile.
#pragma once

#include "runtime/sanitizer.h"

#include <copse/loop.h>

namespace copse {

class Loop;

class Strand {
  public:
    Strand() = default;
    COPSE_API ~Strand();
    Strand(const Strand&) = delete;
    Strand& operator=(const Strand&) = delete;

    // The stack is the caller's: Stack::size() bytes, mapped. Runs entry(argument) when entered.
    COPSE_API void begin(const Stack&, const System&, void (*entry)(void*), void* argument);
    // Runs the strand until it leaves. From outside only.
    COPSE_API void enter();
    // Goes back to who entered; returns when entered again, unless it ends here.
    COPSE_API void leave(bool ends = false);
    bool running() const { return running_; }

    // The strand's loop, null before it made one; how often it dispatched a thread.
    Loop* loop() const { return loop_; }
    // Calls fn(context) from outside as if the strand's OS thread did, between two of its turns.
    COPSE_API void visit(void (*fn)(void*), void* context);

  private:
    // What belongs to an OS thread, and is exchanged when another strand runs on it.
    void exchange();
    static void* arrive(void* strand);

    ThreadBlock inside_;
    ThreadBlock outside_;
    sanitizer::Bounds outside_bounds_;
    const System* system_ = nullptr;
    Loop* loop_ = nullptr;
    ExceptionState exceptions_;
    int errno_ = 0;
    bool running_ = false;
    void (*entry_)(void*) = nullptr;
    void* argument_ = nullptr;
};

// What the loop of this OS thread and the layer above it hold, judged at any dispatch; null, or what
// is wrong with it.
COPSE_API const char* first_broken_invariant();

// A descriptor that the loop watches, and whether a thread waits for it to be readable or writable.
struct Watched {
    int fd;
    uint64_t token;
    bool reader, writer;
};
// Asks about each in turn; the first complaint is the answer, null if there was none.
COPSE_API const char* ask_about_watches(const char* (*question)(void* context, const Watched&),
                                        void* context);

}  // namespace copse

// Loop: what runs the threads of one OS thread: a turn after a turn, until nothing is left to do.
//
// Each OS thread has at most one loop, made when it is first needed and taken down when the OS
// thread ends or destroy_loop() is called. A turn waits for readiness and deadlines (not at all
// while a thread is ready), runs the threads that were ready when it began, and flushes what they
// sent.
#pragma once

#include <copse/thread.h>

namespace copse {

// Runs turns until there is nothing left to do: no thread that is ready, sleeps, or waits on a
// descriptor, no server, and no bytes unsent. Then it asks the threads in wait_for_stop() to end
// (as stop() does) and goes on until that is done. step_timeout bounds the wait of each turn.
// deadlock: threads are left that nothing can wake; the error handler has the list of who waits
// for what, and the threads stay parked. already_running: within loop() or step(). no_memory.
// Answers to copas.loop.
COPSE_API Error loop(Duration step_timeout);
inline Error loop() { return loop(never); }

namespace detail {
COPSE_API Error may_loop();
}

// Adds init as a thread, then loops.
template <class F>
    requires requires(F& f) { f(); }
Error loop(F&& init) {
    if (Error error = detail::may_loop()) return error;
    Result<Thread> first = addthread({.name = "copse_initializer"}, std::forward<F>(init));
    return first ? loop() : first.error;
}

// One turn. true: something ran; false: the timeout passed, or there is nothing to wait for.
// already_running, no_memory. Answers to copas.step.
COPSE_API Result<bool> step(Duration timeout = never);

COPSE_API bool running();   // within loop(): Copas's copas.running
COPSE_API bool finished();  // nothing is left to do: Copas's copas.finished

// Asks the threads that care to end: wakes those in wait_for_stop(), and stopping() is true until
// loop() returns. Does not park. Answers to copas.exit, copas.exiting, copas.waitforexit.
COPSE_API void stop();
COPSE_API bool stopping();
COPSE_API Error wait_for_stop();  // parks; canceled, timeout

// Every thread canceled, every server removed; then loop() returns. Answers to copas.cancelall.
COPSE_API void cancelall();

// Cancels every thread, runs them to their end within a bound, and takes the loop down. The names
// of threads that would not end go to the error handler; their stacks are left alone (deadlock).
// The next use makes a new loop. already_running: within loop() or step(). Runs by itself when an
// OS thread ends.
COPSE_API Error destroy_loop();

// In the child of a fork() every call answers Error::forked until this gives the loop a poller of
// its own; the parked threads are then the child's copies. Without it the child may not use the
// loop, and never disturbs the parent's: it may only forget it, with destroy_loop().
COPSE_API Error after_fork();

// Whether a stack overflow is reported with the thread's name before the program dies of it (by a
// handler of SIGSEGV and SIGBUS that passes every fault on to whoever had it before). On unless set
// off before the first loop is made.
COPSE_API void setoverflowreport(bool on);

// Before the loop sleeps it may look for readiness again and again for at most this long, and only
// while recent waits were shorter than that and the same few descriptors ended them. 0 forbids.
// 20 us unless told otherwise.
COPSE_API void setspin(Duration at_most);

struct Status {
    size_t ready = 0;     // threads that could run now, the running one included
    size_t waiting = 0;   // threads parked on a descriptor
    size_t sleeping = 0;  // threads parked with a deadline and on no descriptor
    size_t parked = 0;    // threads parked on neither
    size_t descriptors = 0;     // registered with the poller
    size_t buffered = 0;        // bytes accepted by send and not yet taken by the kernel
    uint64_t lost = 0;          // bytes accepted by send that the kernel never took
    size_t allocations = 0;     // made for sockets, buffers and the like over the loop's life
    uint64_t turns = 0;
    uint64_t switches = 0;  // threads dispatched over the loop's life
    uint64_t polls = 0;     // times the kernel was asked for readiness
    Duration turn_min, turn_avg, turn_max;  // from the end of a wait to the beginning of the next
    const char* guard = "";   // what lies below a stack: "kernel guard", "mprotect" or "canary"
    const char* poller = "";  // "epoll", "kqueue", "poll", ...
};
COPSE_API Status status();  // Answers to copas.status.

// One line per thread to a descriptor: id, name, state, what it waits for and since when, stack
// used/size.
COPSE_API void dump(int fd);

enum class Events : unsigned { none = 0, readable = 1, writable = 2, both = 3 };
constexpr Events operator|(Events a, Events b) { return Events(unsigned(a) | unsigned(b)); }
constexpr Events operator&(Events a, Events b) { return Events(unsigned(a) & unsigned(b)); }

// Parks until somebody else's descriptor is ready; it stays theirs, and is not made non-blocking.
// Error conditions count as ready for both. busy: a thread waits for that already; unsupported:
// it cannot be polled; timeout, canceled; or the kernel's errno.
COPSE_API Result<Events> wait(int fd, Events, Duration timeout = never);

}  // namespace copse

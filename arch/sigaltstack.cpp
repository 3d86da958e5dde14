// Switch by sigaltstack: for a processor without a file of its own, on a libc without ucontext.
//
// A context is the address of a jump buffer on the suspended stack, and a switch is a sigsetjmp
// and a siglongjmp that leave the signal mask alone: no system call. What libc cannot do is put a
// function on a new stack, but the kernel can: it runs signal handlers on an alternate one. So
// copse_prepare makes the new stack the alternate stack, sends itself a signal, and the handler
// sets the jump buffer before it returns. The first switch jumps back into that handler, whose
// frame is still there because nothing else has run on that stack:
//
//      Start         the jump buffer, the entry and its argument
//      signal frame  of the kernel's making: 0.5 to 12 KiB, as many registers as there are
//      handler       then the thread's own frames
//
// What that costs: some twelve system calls and a signal for each context made, and the signal
// frame for as long as it lives. What it asks for: that no other part of the program sets the
// action of the signal chosen below at that very moment (an action belongs to the whole process),
// and that nobody prepares a context from a handler that runs on an alternate stack.
//
// Invariants:
//  - Signal mask, signal action and alternate stack are as they were when copse_prepare returns.
//  - No signal but the chosen one is delivered meanwhile, so nothing overwrites the new stack.

// glibc's checked longjmp takes a jump to another stack for an attack. This must come first.
#undef _FORTIFY_SOURCE

#include "arch/context.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>

namespace {

struct Start {
    sigjmp_buf registers;  // first: the context's address is the Start's
    void* (*entry)(void*);
    void* argument;
};

pthread_mutex_t bootstrap = PTHREAD_MUTEX_INITIALIZER;  // holds the signal's action

// What the handler is to set up. Volatile: libc's declarations promise the compiler that the calls
// during which it runs touch nothing of this file.
thread_local Start* volatile starting = nullptr;

void expect(bool done) {
    if (!done) __builtin_trap();
}

// The signal's frame tells an unwinder who was interrupted: somebody who has long gone on. Without
// a program counter in it, a backtrace ends there.
void forget_interrupted(void* frame) {
    memset(&static_cast<ucontext_t*>(frame)->uc_mcontext, 0, sizeof(mcontext_t));
}

void handle(int, siginfo_t*, void* frame) {
    Start* start = starting;
    if (!start) return;  // sent to the process by a stranger, and delivered to another OS thread
    starting = nullptr;
    if (sigsetjmp(start->registers, 0) == 0) return;
    forget_interrupted(frame);  // the first switch to this context arrives here
    siglongjmp(*static_cast<sigjmp_buf*>(start->entry(start->argument)), 1);
}

// A signal that nobody handles or has been sent: a stray one of that kind would have ended the
// program, and here is at worst ignored. Better one that is not blocked, since those that are may
// have somebody waiting for them.
int spare_signal([[maybe_unused]] const sigset_t& blocked) {
    int spare = SIGUSR2;
#ifdef SIGRTMIN
    sigset_t waiting;
    expect(sigpending(&waiting) == 0);
    for (int each = SIGRTMIN; each <= SIGRTMAX; ++each) {
        struct sigaction action;
        if (sigismember(&waiting, each) || sigaction(each, nullptr, &action) != 0) continue;
        if ((action.sa_flags & SA_SIGINFO) || action.sa_handler != SIG_DFL) continue;
        if (!sigismember(&blocked, each)) return each;
        if (spare == SIGUSR2) spare = each;
    }
#endif
    return spare;
}

// Runs handle() on the stack that ends at `top`. All signals are blocked, and stay so.
void handle_on(char* top, int signal, const sigset_t& all) {
    struct sigaction action = {}, action_before;
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    action.sa_mask = all;
    stack_t stack = {}, stack_before;
    stack.ss_sp = top - context_room;
    stack.ss_size = context_room;
    expect(sigaction(signal, &action, &action_before) == 0);
    expect(sigaltstack(&stack, &stack_before) == 0);
    expect(pthread_kill(pthread_self(), signal) == 0);
    sigset_t but_this = all;
    sigdelset(&but_this, signal);
    pthread_sigmask(SIG_SETMASK, &but_this, nullptr);  // delivered before this returns
    pthread_sigmask(SIG_SETMASK, &all, nullptr);
    expect(!starting);
    expect(sigaltstack(&stack_before, nullptr) == 0);
    expect(sigaction(signal, &action_before, nullptr) == 0);
}

}  // namespace

extern "C" {

void copse_switch(void** from, void* to) noexcept {
    sigjmp_buf here;
    *from = &here;
    if (sigsetjmp(here, 0) == 0) siglongjmp(*static_cast<sigjmp_buf*>(to), 1);
}

void* copse_prepare(void* top, void* (*entry)(void*), void* argument) noexcept {
    uintptr_t place = (reinterpret_cast<uintptr_t>(top) - sizeof(Start)) & ~uintptr_t{63};
    auto* start = reinterpret_cast<Start*>(place);
    start->entry = entry;
    start->argument = argument;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_mutex_lock(&bootstrap);
    starting = start;
    handle_on(reinterpret_cast<char*>(start), spare_signal(before), all);
    pthread_mutex_unlock(&bootstrap);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return start;
}

// A jump buffer keeps no control words, and C has no portable names for all of them: under this
// port every thread shares the OS thread's environment, whatever it asks for.
uint64_t copse_fp_environment(void) noexcept { return 0; }
void copse_set_fp_environment(uint64_t) noexcept {}
}

// OsThread: what copse keeps of an OS thread: what runs at its end, and who hears of its faults.
//
// Reached through a pthread key: its destructor is the one call that comes when a thread ends, and
// looking it up is safe in a signal handler, where the first touch of a thread_local in a shared
// object may allocate. A program's first OS thread ends without it unless it calls pthread_exit().
#include "runtime/system_posix.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

namespace copse::posix {

namespace {

struct OsThread {
    void (*at_end)(void*) = nullptr;
    void* context = nullptr;
    bool (*on_fault)(void* address) = nullptr;
    void* signal_stack = nullptr;  // ours, or null: the thread brought its own
    size_t signal_stack_size = 0;  // with its guard
};

struct Key {
    pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_key_t key{};
    int error = 0;
};
constinit Key os_threads;

void give_back_signal_stack(OsThread* self) {
    if (!self->signal_stack) return;
    stack_t current{};
    sigaltstack(nullptr, &current);
    // The program may have put its own in place since; that one stays.
    const size_t guarded = page_size(production_system);
    if (current.ss_sp == static_cast<char*>(self->signal_stack) + guarded) {
        stack_t none{};
        none.ss_flags = SS_DISABLE;
        none.ss_size = self->signal_stack_size;  // macOS looks at it
        if (sigaltstack(&none, nullptr) < 0) return;  // we stand on it
    }
    munmap(self->signal_stack, self->signal_stack_size);
    self->signal_stack = nullptr;
}

void end_os_thread(void* memory) {
    auto* self = static_cast<OsThread*>(memory);
    // The key was emptied before this call, and what runs now may yet ask for it.
    pthread_setspecific(os_threads.key, self);
    if (auto* at_end = self->at_end) {
        self->at_end = nullptr;
        at_end(self->context);
        if (self->at_end) return;  // registered anew: pthreads calls again
    }
    pthread_setspecific(os_threads.key, nullptr);
    give_back_signal_stack(self);
    free(self);
}

void make_key() { os_threads.error = pthread_key_create(&os_threads.key, end_os_thread); }

// Null: no memory, or no key left.
OsThread* this_os_thread() {
    pthread_once(&os_threads.once, make_key);
    if (os_threads.error) return nullptr;
    auto* self = static_cast<OsThread*>(pthread_getspecific(os_threads.key));
    if (self) return self;
    self = static_cast<OsThread*>(malloc(sizeof(OsThread)));
    if (!self) return nullptr;
    *self = OsThread{};
    if (pthread_setspecific(os_threads.key, self) == 0) return self;
    free(self);
    return nullptr;
}

}  // namespace

int at_thread_end(const System&, void (*fn)(void*), void* context) {
    OsThread* self = this_os_thread();
    if (!self) return -ENOMEM;
    self->at_end = fn;
    self->context = context;
    return 0;
}

// Faults ----------------------------------------------------------------------------------------
// The handler is the process's, installed once and never taken out again: a program that installs
// its own afterwards may have kept ours to forward to. It adds a report and changes no outcome.

namespace {

struct FaultSignal {
    int number;
    struct sigaction previous;
};
// An overflow is a SIGSEGV on Linux, a SIGBUS on macOS and some BSDs.
constinit FaultSignal fault_signals[] = {{SIGSEGV, {}}, {SIGBUS, {}}};
int faults_are_caught = 0;  // or -errno

// Set only where a signal was sent by somebody: it will not come again by itself.
bool was_sent(const siginfo_t* info) {
#ifdef SI_TKILL
    if (info->si_code == SI_TKILL) return true;
#endif
    return info->si_code == SI_USER || info->si_code == SI_QUEUE;
}

void set_default(int number) {
    struct sigaction action{};
    action.sa_handler = SIG_DFL;
    sigemptyset(&action.sa_mask);
    sigaction(number, &action, nullptr);
}

// Dies as it would have without us: the faulting instruction runs again, and a core shows it.
void forward_to_default(int number, const siginfo_t* info) {
    set_default(number);
    if (was_sent(info)) raise(number);  // held back until the handler has returned
}

// What the kernel does before it calls a handler, for the one it did not call.
void enter_as(const FaultSignal& signal) {
    const struct sigaction& previous = signal.previous;
    if (previous.sa_flags & SA_RESETHAND) set_default(signal.number);
    pthread_sigmask(SIG_BLOCK, &previous.sa_mask, nullptr);
    if (!(previous.sa_flags & SA_NODEFER)) return;
    sigset_t itself;
    sigemptyset(&itself);
    sigaddset(&itself, signal.number);
    pthread_sigmask(SIG_UNBLOCK, &itself, nullptr);
}

void forward(const FaultSignal& signal, siginfo_t* info, void* machine) {
    const struct sigaction& previous = signal.previous;
    const bool with_info = previous.sa_flags & SA_SIGINFO;
    if (!with_info && previous.sa_handler == SIG_IGN && was_sent(info)) return;
    if (!with_info && (previous.sa_handler == SIG_DFL || previous.sa_handler == SIG_IGN))
        return forward_to_default(signal.number, info);
    enter_as(signal);
    if (with_info)
        previous.sa_sigaction(signal.number, info, machine);
    else
        previous.sa_handler(signal.number);
}

void on_fault(int number, siginfo_t* info, void* machine) {
    const int saved = errno;
    auto* self = static_cast<OsThread*>(pthread_getspecific(os_threads.key));
    if (self && self->on_fault && !was_sent(info)) self->on_fault(info->si_addr);
    for (const FaultSignal& each : fault_signals)
        if (each.number == number) forward(each, info, machine);
    errno = saved;
}

void install_fault_handler() {
    struct sigaction action{};
    action.sa_sigaction = on_fault;
    // Without SA_NODEFER: a fault in the report ends the program instead of reporting for ever.
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    for (FaultSignal& each : fault_signals) {
        // Known before ours can run: a fault of another OS thread may come between two calls.
        if (sigaction(each.number, nullptr, &each.previous) < 0 ||
            sigaction(each.number, &action, nullptr) < 0)
            faults_are_caught = -errno;
    }
}

// An overflow cannot be reported on the stack that overflowed. A thread that already has a stack
// for signals keeps it.
int take_signal_stack(OsThread* self) {
    constexpr size_t for_report = 64 * 1024;
    stack_t current{};
    if (sigaltstack(nullptr, &current) < 0) return -errno;
    if (self->signal_stack || !(current.ss_flags & SS_DISABLE)) return 0;
    const size_t page = page_size(production_system);
    const size_t usable = (smallest_signal_stack() + for_report + page - 1) & ~(page - 1);
    char* memory = static_cast<char*>(map(production_system, page + usable));
    if (!memory) return -ENOMEM;
    stack_t mine{};
    mine.ss_sp = memory + page;
    mine.ss_size = usable;
    if (mprotect(memory, page, PROT_NONE) < 0 || sigaltstack(&mine, nullptr) < 0) {
        int error = -errno;
        munmap(memory, page + usable);
        return error;
    }
    self->signal_stack = memory;
    self->signal_stack_size = page + usable;
    return 0;
}

}  // namespace

int catch_faults(const System&, bool (*handler)(void* address)) {
    OsThread* self = this_os_thread();
    if (!self) return -ENOMEM;
    if (int error = take_signal_stack(self); error < 0) return error;
    self->on_fault = handler;
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, install_fault_handler);
    return faults_are_caught;
}

void drop_faults(const System&) {
    OsThread* self = this_os_thread();
    if (!self) return;
    self->on_fault = nullptr;
    give_back_signal_stack(self);
}

}  // namespace copse::posix

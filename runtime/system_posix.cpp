// System, POSIX: what every kernel copse runs on does in one way.
//
//  - A call that a signal interrupted is made again, with two exceptions: close, whose descriptor
//    may be another's by then, and connect, which goes on by itself.
//  - No signal's disposition is changed except by catch_faults(), which a program may forbid.
#include "runtime/system_posix.h"

#include "runtime/check.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0  // such systems have SO_NOSIGPIPE: see system_bsd.cpp
#endif

namespace copse {

namespace {

thread_local constinit const System* chosen_system = nullptr;

}  // namespace

void use_system(const System* system) { chosen_system = system; }

const System& system_to_use() { return chosen_system ? *chosen_system : production_system; }

namespace posix {

// Memory ----------------------------------------------------------------------------------------

void* allocate(const System&, size_t size) { return malloc(size ? size : 1); }

void release(const System&, void* memory, size_t) { free(memory); }

namespace {

void* map_pages(size_t size, int more_flags) {
    void* memory =
        mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON | more_flags, -1, 0);
    return memory == MAP_FAILED ? nullptr : memory;
}

// OpenBSD kills a process whose stack pointer is outside such a mapping; on FreeBSD the flag means
// a stack that grows by itself, with a guard where we do not want it.
#if defined(MAP_STACK) && !defined(__FreeBSD__) && !defined(__DragonFly__)
constexpr int for_stacks = MAP_STACK;
#else
constexpr int for_stacks = 0;
#endif
#ifdef MAP_NORESERVE
constexpr int lazily = MAP_NORESERVE;
#else
constexpr int lazily = 0;
#endif

}  // namespace

void* map(const System&, size_t size) {
    void* memory = map_pages(size, for_stacks | lazily);
    if (memory) prepare_stacks(memory, size);
    return memory;
}

void unmap(const System&, void* memory, size_t size) { munmap(memory, size); }

int guard(const System&, void* memory, size_t size, Guard kind) {
    switch (kind) {
    case Guard::kernel: return guard_in_page_table(memory, size);
    case Guard::mprotect: return or_error(mprotect(memory, size, PROT_NONE));
    case Guard::canary: break;  // painted by who owns the stack
    }
    return -EINVAL;
}

// Where the kernel cannot say, everything counts as used.
size_t lowest_resident(const System& system, const void* memory, size_t size) {
    constexpr size_t pages_per_call = 64;
    unsigned char resident[pages_per_call];
    const size_t page = page_size(system);
    const uintptr_t begin = reinterpret_cast<uintptr_t>(memory), end = begin + size;
    for (uintptr_t at = begin & ~(page - 1); at < end; at += page * pages_per_call) {
        size_t span = page * pages_per_call < end - at ? page * pages_per_call : end - at;
        if (residency(reinterpret_cast<const void*>(at), span, resident) < 0) return 0;
        for (size_t i = 0; i * page < span; ++i) {
            uintptr_t found = at + i * page;
            if (resident[i] & 1) return found > begin ? found - begin : 0;
        }
    }
    return size;
}

size_t page_size(const System&) { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

// Descriptors -----------------------------------------------------------------------------------

int set_descriptor_flags(int fd) {
    int flags = or_error(fcntl(fd, F_GETFD));
    if (flags < 0) return flags;
    if (!(flags & FD_CLOEXEC) && fcntl(fd, F_SETFD, flags | FD_CLOEXEC) < 0) return -errno;
    flags = or_error(fcntl(fd, F_GETFL));
    if (flags < 0) return flags;
    if (!(flags & O_NONBLOCK) && fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) return -errno;
    return 0;
}

int refuse_files(int fd) {
    struct stat about;
    if (fstat(fd, &about) < 0) return errno == EOVERFLOW ? -EPERM : -errno;
    bool file = S_ISREG(about.st_mode) || S_ISDIR(about.st_mode) || S_ISBLK(about.st_mode);
    return file ? -EPERM : 0;
}

// Linux and the BSDs have let go of the descriptor whatever close() answers, EINTR included: a
// second attempt could close what another OS thread has just opened.
int close(const System&, int fd) {
    if (::close(fd) == 0 || errno == EINTR || errno == EINPROGRESS) return 0;
    return -errno;
}

int bind(const System&, int fd, const sockaddr* to, socklen_t size) {
    return or_error(::bind(fd, to, size));
}

int listen(const System&, int fd, int backlog) { return or_error(::listen(fd, backlog)); }

int connect(const System&, int fd, const sockaddr* to, socklen_t size) {
    int result = or_error(::connect(fd, to, size));
    return result == -EINTR ? -EINPROGRESS : result;
}

int shutdown(const System&, int fd, int how) { return or_error(::shutdown(fd, how)); }

int get_peer_name(const System&, int fd, sockaddr* out, socklen_t* size) {
    return or_error(::getpeername(fd, out, size));
}

int get_socket_name(const System&, int fd, sockaddr* out, socklen_t* size) {
    return or_error(::getsockname(fd, out, size));
}

int get_option(const System&, int fd, int level, int option, void* out, socklen_t* size) {
    return or_error(::getsockopt(fd, level, option, out, size));
}

int set_option(const System&, int fd, int level, int option, const void* value, socklen_t size) {
    return or_error(::setsockopt(fd, level, option, value, size));
}

int unlink(const System&, const char* path) { return or_error(::unlink(path)); }

size_t descriptor_limit(const System&) {
    rlimit limit{};
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY) return 0;
    return static_cast<size_t>(limit.rlim_cur);
}

// Bytes -----------------------------------------------------------------------------------------
// Sockets first: what a program wraps besides (pipes, terminals) pays for one refused call more.

ssize_t receive(const System&, int fd, void* out, size_t size) {
    ssize_t got = retried([&] { return ::recv(fd, out, size, 0); });
    return got == -ENOTSOCK ? retried([&] { return ::read(fd, out, size); }) : got;
}

namespace {

bool sigpipe_is_pending() {
    sigset_t pending;
    sigemptyset(&pending);
    sigpending(&pending);
    return sigismember(&pending, SIGPIPE) == 1;
}

// writev() has no MSG_NOSIGNAL, and a SIGPIPE's disposition is the program's own. So the signal is
// held back in this OS thread alone while it writes. A broken pipe's signal is sent to the thread
// that wrote, so the one pending afterwards, and not before, is the write's: it is taken, and
// sigwait() has no time to wait.
ssize_t write_without_signal(int fd, const iovec* pieces, int count) {
    const bool before = sigpipe_is_pending();
    sigset_t pipe, mask;
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe, &mask);
    ssize_t result = retried([&] { return ::writev(fd, pieces, count); });
    if (result == -EPIPE && !before && sigpipe_is_pending()) {
        int taken;
        sigwait(&pipe, &taken);
    }
    pthread_sigmask(SIG_SETMASK, &mask, nullptr);
    return result;
}

}  // namespace

ssize_t send(const System&, int fd, const iovec* pieces, int count) {
#ifdef IOV_MAX
    if (count > IOV_MAX) count = IOV_MAX;  // a short write, not EMSGSIZE
#endif
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(pieces);
    message.msg_iovlen = static_cast<decltype(message.msg_iovlen)>(count);
    ssize_t sent = retried([&] { return ::sendmsg(fd, &message, MSG_NOSIGNAL); });
    return sent == -ENOTSOCK ? write_without_signal(fd, pieces, count) : sent;
}

// Called from a signal handler too: nothing here allocates or locks. A full pipe is waited for, but
// not for ever.
void write_all(const System&, int fd, const char* text, size_t size) {
    constexpr int patience = 100;  // milliseconds without progress
    while (size > 0) {
        iovec piece{const_cast<char*>(text), size};
        ssize_t written = write_without_signal(fd, &piece, 1);
        if (written == -EAGAIN) {
            pollfd room{fd, POLLOUT, 0};
            if (poll(&room, 1, patience) > 0) continue;
        }
        if (written <= 0) return;
        text += written;
        size -= static_cast<size_t>(written);
    }
}

// The process -----------------------------------------------------------------------------------

namespace {

int forks = 0;  // written only by a child that has one OS thread

void watch_forks() {
    pthread_atfork(nullptr, nullptr, [] { __atomic_fetch_add(&forks, 1, __ATOMIC_RELAXED); });
}

}  // namespace

// Counts from the first question on: a process that never made a loop hooks nothing.
uint32_t fork_count(const System&) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    return static_cast<uint32_t>(__atomic_load_n(&forks, __ATOMIC_RELAXED));
}

// What copse keeps of an OS thread, reached through a pthread key: its destructor is the one call
// that comes when a thread ends, and looking it up is safe in a signal handler, where the first
// touch of a thread_local in a shared object may allocate. A program's first OS thread ends without
// it unless it calls pthread_exit().
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
    char* memory = static_cast<char*>(map_pages(page + usable, for_stacks));
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

}  // namespace posix

// Dying -----------------------------------------------------------------------------------------

namespace {

// A line put together without stdio, which allocates and locks; cut where it is too long.
struct Line {
    char text[512];
    size_t size = 0;

    void add(const char* more) {
        while (*more && size < sizeof text - 1) text[size++] = *more++;
    }
    void add_number(int number) {
        char digits[12];
        char* first = digits + sizeof digits - 1;
        *first = '\0';
        do {
            *--first = static_cast<char>('0' + number % 10);
            number /= 10;
        } while (number > 0);
        add(first);
    }
};

}  // namespace

void fatal(const char* file, int line, const char* what) noexcept {
    Line message;
    message.add("copse: ");
    message.add(file);
    message.add(":");
    message.add_number(line);
    message.add(": ");
    message.add(what);
    message.text[message.size++] = '\n';
    posix::write_all(production_system, STDERR_FILENO, message.text, message.size);
    abort();
}

}  // namespace copse

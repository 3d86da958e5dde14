// System, POSIX: what every kernel copse runs on does in one way.
//
//  - A call that a signal interrupted is made again, with two exceptions: close, whose descriptor
//    may be another's by then, and connect, which goes on by itself.
//  - No signal's disposition is changed except by catch_faults(), which a program may forbid.
#include "runtime/system_posix.h"

#include "runtime/check.h"
#include "runtime/text.h"

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

thread_local constinit const System* chosen = nullptr;

}  // namespace

void use_system(const System* system) { chosen = system; }

const System* chosen_system() { return chosen; }

const System& system_to_use() { return chosen ? *chosen : production_system; }

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

// The kernel has less to copy and to look at than for a message of one piece.
ssize_t send_one(int fd, const iovec& piece) {
    return retried([&] { return ::send(fd, piece.iov_base, piece.iov_len, MSG_NOSIGNAL); });
}

ssize_t send_many(int fd, const iovec* pieces, int count) {
#ifdef IOV_MAX
    if (count > IOV_MAX) count = IOV_MAX;  // a short write, not EMSGSIZE
#endif
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(pieces);
    message.msg_iovlen = static_cast<decltype(message.msg_iovlen)>(count);
    return retried([&] { return ::sendmsg(fd, &message, MSG_NOSIGNAL); });
}

}  // namespace

ssize_t send(const System&, int fd, const iovec* pieces, int count) {
    ssize_t sent = count == 1 ? send_one(fd, *pieces) : send_many(fd, pieces, count);
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

uint32_t forks = 0;  // written only by a child that has one OS thread

void watch_forks() {
    pthread_atfork(nullptr, nullptr, [] { ++forks; });
}

}  // namespace

// Counts from the first question on: a process that never made a loop hooks nothing.
const uint32_t* fork_count(const System&) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    return &forks;
}

}  // namespace posix

// Dying -----------------------------------------------------------------------------------------

void fatal(const char* file, int line, const char* what) noexcept {
    Text<512> message;
    message.add("copse: ").add(file).add(":").add(uint64_t(line)).add(": ").add(what).add("\n");
    posix::write_all(production_system, STDERR_FILENO, message.c_str(), message.size());
    abort();
}

}  // namespace copse

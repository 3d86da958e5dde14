// System, BSD: what macOS and the BSDs do in their own way.
//
// macOS has neither accept4() nor flags for socket(): a descriptor is made first and prepared
// after, and a program that forks and executes on another OS thread may leak one in between.
#include "runtime/system_posix.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

namespace copse::posix {

const char name[] = "bsd";

int64_t now(const System&) {
#ifdef __APPLE__
    // The clock that kevent()'s timeouts are counted on; CLOCK_MONOTONIC there has microseconds.
    constexpr clockid_t clock = CLOCK_UPTIME_RAW;
#else
    constexpr clockid_t clock = CLOCK_MONOTONIC;
#endif
    timespec time{};
    clock_gettime(clock, &time);
    return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

void random(const System&, void* out, size_t size) { arc4random_buf(out, size); }

// Memory ----------------------------------------------------------------------------------------

void prepare_stacks(void*, size_t) {}

int guard_in_page_table(void*, size_t) { return -ENOSYS; }

// MADV_FREE leaves the pages, and what was in them, until memory is short; a new mapping in the
// old one's place gives them back now. A guard inside the range would be lost, which is why
// callers leave guards out.
void discard(const System&, void* memory, size_t size) {
    int flags = MAP_PRIVATE | MAP_ANON | MAP_FIXED;
#ifdef __OpenBSD__
    flags |= MAP_STACK;
#endif
    mmap(memory, size, PROT_READ | PROT_WRITE, flags, -1, 0);
}

int residency(const void* memory, size_t size, unsigned char* out) {
#ifdef __OpenBSD__
    (void)memory, (void)size, (void)out;
    return -ENOSYS;
#elif defined(__NetBSD__)
    return or_error(mincore(const_cast<void*>(memory), size, reinterpret_cast<char*>(out)));
#else
    return or_error(mincore(memory, size, reinterpret_cast<char*>(out)));
#endif
}

size_t smallest_signal_stack() { return static_cast<size_t>(MINSIGSTKSZ); }

// Descriptors -----------------------------------------------------------------------------------

namespace {

// Where there is no MSG_NOSIGNAL the socket itself is told.
int silence(int fd) {
#ifdef SO_NOSIGPIPE
    const int on = 1;
    int result = or_error(setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on));
    return result == -ENOTSOCK ? 0 : result;
#else
    (void)fd;
    return 0;
#endif
}

int prepare(int fd) {
    if (int error = set_descriptor_flags(fd); error < 0) return error;
    return silence(fd);
}

// The descriptor, or -errno with the descriptor closed.
int prepared(int fd) {
    if (fd < 0) return fd;
    int error = prepare(fd);
    if (error == 0) return fd;
    ::close(fd);
    return error;
}

}  // namespace

int open_socket(const System&, int family, int type, int protocol) {
#ifdef SOCK_NONBLOCK
    type |= SOCK_CLOEXEC | SOCK_NONBLOCK;
#endif
    return prepared(or_error(::socket(family, type, protocol)));
}

int open_pair(const System&, int family, int type, int out[2]) {
#ifdef SOCK_NONBLOCK
    type |= SOCK_CLOEXEC | SOCK_NONBLOCK;
#endif
    int result = or_error(::socketpair(family, type, 0, out));
    if (result < 0) return result;
    int error = prepare(out[0]);
    if (error == 0) error = prepare(out[1]);
    if (error == 0) return 0;
    ::close(out[0]);
    ::close(out[1]);
    return error;
}

int accept(const System&, int fd, sockaddr* from, socklen_t* size) {
#ifdef __APPLE__
    int accepted = prepared(retried([&] { return ::accept(fd, from, size); }));
    // What setsockopt() answers for a connection that its peer has reset by now.
    return accepted == -EINVAL ? -ECONNABORTED : accepted;
#else
    return prepared(
        retried([&] { return ::accept4(fd, from, size, SOCK_CLOEXEC | SOCK_NONBLOCK); }));
#endif
}

int adopt(const System&, int fd) { return prepare(fd); }

}  // namespace copse::posix

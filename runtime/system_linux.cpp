// System, Linux: what Linux does in its own way.
#include "runtime/system_posix.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

namespace copse::posix {

const char name[] = "linux";

int64_t now(const System&) {
    timespec time{};
    clock_gettime(CLOCK_MONOTONIC, &time);
    return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

// Chance ----------------------------------------------------------------------------------------

namespace {

size_t from_getrandom(unsigned char* out, size_t size) {
#ifdef SYS_getrandom
    // By number: older C libraries have no function for it. Without waiting: a board that has just
    // started must not stand still for the sake of a stack's colour.
    constexpr unsigned without_waiting = 1;
    size_t done = 0;
    while (done < size) {
        long got = retried(
            [&] { return syscall(SYS_getrandom, out + done, size - done, without_waiting); });
        if (got <= 0) break;
        done += static_cast<size_t>(got);
    }
    return done;
#else
    return 0;
#endif
}

size_t from_urandom(unsigned char* out, size_t size) {
    int fd = retried([] { return ::open("/dev/urandom", O_RDONLY | O_CLOEXEC); });
    if (fd < 0) return 0;
    size_t done = 0;
    while (done < size) {
        ssize_t got = retried([&] { return ::read(fd, out + done, size - done); });
        if (got <= 0) break;
        done += static_cast<size_t>(got);
    }
    ::close(fd);
    return done;
}

// Neither a system call nor a descriptor left: different each time is all that can be had.
void from_clock(const System& system, unsigned char* out, size_t size) {
    uint64_t state = static_cast<uint64_t>(now(system)) ^ reinterpret_cast<uintptr_t>(out) ^
                     static_cast<uint64_t>(getpid()) << 40;
    for (size_t i = 0; i < size; ++i) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        out[i] = static_cast<unsigned char>(state >> 56);
    }
}

}  // namespace

void random(const System& system, void* out, size_t size) {
    auto* bytes = static_cast<unsigned char*>(out);
    size_t done = from_getrandom(bytes, size);
    if (done < size) done += from_urandom(bytes + done, size - done);
    if (done < size) from_clock(system, bytes + done, size - done);
}

// Memory ----------------------------------------------------------------------------------------

void prepare_stacks(void* memory, size_t size) {
    // A huge page would make every parked thread cost 2 MiB. Kernels without them refuse; fine.
    madvise(memory, size, MADV_NOHUGEPAGE);
}

namespace {

// Whether madvise refuses what it does not know. Emulators (qemu-user) answer every advice with
// success and do nothing; there a guard would be believed in and not be.
bool advice_is_honest(void* memory, size_t size) {
    constexpr int no_such_advice = 0x6b01;
    enum { unknown, honest, credulous };
    static int answer = unknown;
    int known = __atomic_load_n(&answer, __ATOMIC_RELAXED);
    if (known == unknown) {
        known = madvise(memory, size, no_such_advice) < 0 ? honest : credulous;
        __atomic_store_n(&answer, known, __ATOMIC_RELAXED);
    }
    return known == honest;
}

}  // namespace

int guard_in_page_table(void* memory, size_t size) {
    constexpr int install_guard = 102;  // MADV_GUARD_INSTALL, Linux 6.13; libc need not know it
    if (!advice_is_honest(memory, size)) return -ENOSYS;
    int result = 0;
    for (int attempt = 0; attempt < 16; ++attempt) {
        // It gives up halfway when a signal is pending or a fault on another CPU is in its way.
        result = or_error(madvise(memory, size, install_guard));
        if (result != -EINTR && result != -EAGAIN) break;
    }
    return result;
}

void discard(const System&, void* memory, size_t size) {
    // Keeps both kinds of guard: markers survive it, and so does a mapping's protection.
    madvise(memory, size, MADV_DONTNEED);
}

int residency(const void* memory, size_t size, unsigned char* out) {
    return or_error(mincore(const_cast<void*>(memory), size, out));
}

size_t smallest_signal_stack() {
    constexpr unsigned long smallest_frame = 51;  // AT_MINSIGSTKSZ: grows with AVX-512, SVE, AMX
    size_t told = getauxval(smallest_frame);
    size_t fixed = static_cast<size_t>(MINSIGSTKSZ);
    return told > fixed ? told : fixed;
}

// Descriptors -----------------------------------------------------------------------------------

int open_socket(const System&, int family, int type, int protocol) {
    return or_error(::socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol));
}

int open_pair(const System&, int family, int type, int out[2]) {
    return or_error(::socketpair(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, out));
}

int accept(const System&, int fd, sockaddr* from, socklen_t* size) {
    return retried([&] { return ::accept4(fd, from, size, SOCK_CLOEXEC | SOCK_NONBLOCK); });
}

int adopt(const System&, int fd) { return set_descriptor_flags(fd); }

}  // namespace copse::posix

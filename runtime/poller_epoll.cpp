// Poller, epoll: readiness on Linux.
//
// A descriptor is added once, for both directions and edge-triggered, and deleted before it is
// closed; it is never modified. What epoll hands back is the watch's token, so an event that
// outlives its descriptor names a token that is no longer in use, never a wrong descriptor.
//
// Deadlines are finer than epoll_wait's milliseconds. epoll_pwait2 (Linux 5.11) takes nanoseconds;
// where it is missing a timer descriptor in the same set wakes the wait; where even that cannot be
// had, milliseconds are rounded up. Which of them works is found out once, by trying.
#include "runtime/system_posix.h"

#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

namespace copse {

namespace {

constexpr int events_per_call = 256;
constexpr uint64_t timer_token = ~uint64_t{0};  // no watch has it: see PollEvent

enum class Precision : uint8_t { pwait2, timer, milliseconds };

}  // namespace

struct Poller {
    int fd;
    int timer;  // -1 until the first wait that needs one
    Precision precision;
    epoll_event events[events_per_call];
};

namespace {

int open(const System& system, Poller** out) {
    auto* poller = static_cast<Poller*>(system.allocate(system, sizeof(Poller)));
    if (!poller) return -ENOMEM;
    poller->fd = posix::or_error(epoll_create1(EPOLL_CLOEXEC));
    poller->timer = -1;
    poller->precision = Precision::pwait2;
    if (poller->fd < 0) {
        int error = poller->fd;
        system.release(system, poller, sizeof(Poller));
        return error;
    }
    *out = poller;
    return 0;
}

void close(const System& system, Poller* poller) {
    if (poller->timer >= 0) ::close(poller->timer);
    ::close(poller->fd);
    system.release(system, poller, sizeof(Poller));
}

int control(Poller* poller, int operation, int fd, uint32_t events, uint64_t token) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = token;
    // Never null, though a removal needs no event: Linux before 2.6.9 read it.
    return posix::or_error(epoll_ctl(poller->fd, operation, fd, &event));
}

int add(const System&, Poller* poller, int fd, uint64_t token) {
    return control(poller, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, token);
}

int remove(const System&, Poller* poller, int fd) {
    return control(poller, EPOLL_CTL_DEL, fd, 0, 0);
}

// Waiting ---------------------------------------------------------------------------------------

int wait_milliseconds(Poller* poller, int capacity, int timeout) {
    return posix::or_error(epoll_wait(poller->fd, poller->events, capacity, timeout));
}

int wait_nanoseconds(Poller* poller, int capacity, int64_t timeout) {
#ifdef SYS_epoll_pwait2
    // The kernel's timespec has 64 bits to a field on every machine; libc's may have 32.
    const struct {
        int64_t seconds, nanoseconds;
    } time{timeout / 1'000'000'000, timeout % 1'000'000'000};
    return static_cast<int>(posix::or_error(syscall(SYS_epoll_pwait2, poller->fd, poller->events,
                                                    capacity, &time, nullptr, size_t{0})));
#else
    (void)poller, (void)capacity, (void)timeout;
    return -ENOSYS;
#endif
}

// Whether the timer will wake the wait when timeout is over. Setting it anew forgets an expiry that
// nobody was told of, and being edge-triggered it is never read.
bool set_timer(Poller* poller, int64_t timeout) {
    if (poller->timer < 0) {
        poller->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        if (poller->timer < 0) return false;
        if (control(poller, EPOLL_CTL_ADD, poller->timer, EPOLLIN | EPOLLET, timer_token) < 0) {
            ::close(poller->timer);
            poller->timer = -1;
            return false;
        }
    }
    itimerspec time{};
    time.it_value.tv_sec = static_cast<time_t>(timeout / 1'000'000'000);
    time.it_value.tv_nsec = static_cast<long>(timeout % 1'000'000'000);
    return timerfd_settime(poller->timer, 0, &time, nullptr) == 0;
}

int wait_precisely(Poller* poller, int capacity, int64_t timeout) {
    if (poller->precision == Precision::pwait2) {
        int count = wait_nanoseconds(poller, capacity, timeout);
        // EPERM: sandboxes answer it to calls newer than themselves.
        if (count != -ENOSYS && count != -EPERM) return count;
        poller->precision = Precision::timer;
    }
    if (poller->precision == Precision::timer && !set_timer(poller, timeout))
        poller->precision = Precision::milliseconds;
    // With the timer set this is only its backstop.
    return wait_milliseconds(poller, capacity, posix::milliseconds(timeout));
}

uint32_t readiness(uint32_t events) {
    uint32_t ready = 0;
    if (events & EPOLLIN) ready |= PollEvent::readable;
    if (events & EPOLLOUT) ready |= PollEvent::writable;
    if (events & EPOLLRDHUP) ready |= PollEvent::readable | PollEvent::hangup;
    if (events & (EPOLLERR | EPOLLHUP))
        ready |= PollEvent::readable | PollEvent::writable | PollEvent::hangup;
    return ready;
}

int wait(const System&, Poller* poller, PollEvent* events, int capacity, int64_t timeout) {
    if (capacity > events_per_call) capacity = events_per_call;
    if (timeout > posix::longest_wait) timeout = posix::longest_wait;
    int count = timeout > 0 ? wait_precisely(poller, capacity, timeout)
                            : wait_milliseconds(poller, capacity, timeout < 0 ? -1 : 0);
    if (count < 0) return count == -EINTR ? 0 : count;
    int told = 0;
    for (int i = 0; i < count; ++i) {
        const epoll_event& event = poller->events[i];
        uint64_t token = event.data.u64;
        if (token != timer_token) events[told++] = {token, readiness(event.events)};
    }
    return told;
}

}  // namespace

constinit const System production_system =
    posix::table({"epoll", open, close, add, remove, nullptr, wait});

}  // namespace copse

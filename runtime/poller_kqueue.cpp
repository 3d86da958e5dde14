// Poller, kqueue: readiness on macOS and the BSDs.
//
// A descriptor has two filters, one a direction, both added at once with EV_CLEAR (edge-triggered)
// and deleted before it is closed. Changes are made by calls that take no events: then a failure is
// the call's own errno, on every kernel.
//
// A filter's udata is a pointer, too narrow for a token on 32-bit machines, so tokens are kept here
// by descriptor. That is safe because kqueue, unlike epoll, watches descriptors and not what is
// behind them: a filter is gone when its descriptor is deleted or closed, a dup() notwithstanding,
// and an event that kevent() returns is of the descriptor's present owner.
//
// Invariant: tokens[fd] is the token of a descriptor that is registered, and unused for others.
#include "runtime/system_posix.h"

#include <fcntl.h>
#include <sys/event.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

namespace copse {

namespace {

constexpr int events_per_call = 256;
constexpr uint64_t unused = ~uint64_t{0};  // no watch has it: see PollEvent

}  // namespace

struct Poller {
    int fd;
    uint32_t fork_count;  // when it was opened
    posix::Array<uint64_t> tokens;
    struct kevent events[events_per_call];
};

namespace {

int open(const System& system, Poller** out) {
    auto* poller = static_cast<Poller*>(system.allocate(system, sizeof(Poller)));
    if (!poller) return -ENOMEM;
    poller->fd = posix::or_error(kqueue());
    if (poller->fd < 0) {
        int error = poller->fd;
        system.release(system, poller, sizeof(Poller));
        return error;
    }
    fcntl(poller->fd, F_SETFD, FD_CLOEXEC);
    poller->fork_count = *system.fork_count(system);
    poller->tokens = {};
    *out = poller;
    return 0;
}

void close(const System& system, Poller* poller) {
    // A child does not inherit a kqueue: there the number is free, or somebody else's by now.
    if (poller->fork_count == *system.fork_count(system)) ::close(poller->fd);
    poller->tokens.drop(system);
    system.release(system, poller, sizeof(Poller));
}

// kevent() makes its changes even when a signal interrupts it.
int change(Poller* poller, int fd, int filter, int flags) {
    struct kevent wanted {};
    wanted.ident = static_cast<decltype(wanted.ident)>(fd);
    wanted.filter = static_cast<decltype(wanted.filter)>(filter);
    wanted.flags = static_cast<decltype(wanted.flags)>(flags);
    int result = posix::or_error(kevent(poller->fd, &wanted, 1, nullptr, 0, nullptr));
    return result == -EINTR ? 0 : result;
}

int add(const System& system, Poller* poller, int fd, uint64_t token) {
    if (int error = posix::refuse_files(fd); error < 0) return error;
    if (!poller->tokens.reach(system, fd, unused)) return -ENOMEM;
    // kevent() would replace a filter that is there; one whose descriptor was closed behind our back
    // is not.
    if (poller->tokens[fd] != unused && change(poller, fd, EVFILT_READ, EV_ENABLE) == 0)
        return -EEXIST;
    if (int error = change(poller, fd, EVFILT_READ, EV_ADD | EV_CLEAR); error < 0) return error;
    const int error = change(poller, fd, EVFILT_WRITE, EV_ADD | EV_CLEAR);
    // A pipe whose other end is closed already has no filter for writing, but is worth reading.
    if (error < 0 && error != -EPIPE) {
        change(poller, fd, EVFILT_READ, EV_DELETE);
        return error;
    }
    poller->tokens[fd] = token;
    return 0;
}

int remove(const System&, Poller* poller, int fd) {
    if (!poller->tokens.has(fd) || poller->tokens[fd] == unused) return -ENOENT;
    poller->tokens[fd] = unused;
    const int error = change(poller, fd, EVFILT_READ, EV_DELETE);
    change(poller, fd, EVFILT_WRITE, EV_DELETE);
    return error;
}

uint32_t readiness(const struct kevent& event) {
    uint32_t ready = event.filter == EVFILT_READ ? PollEvent::readable : PollEvent::writable;
    // What is left to read comes before the end; who would write has an error to collect, and the
    // end of reading may be the only event that a descriptor without a write filter gets.
    if (event.flags & (EV_EOF | EV_ERROR)) ready |= PollEvent::hangup | PollEvent::writable;
    return ready;
}

int wait(const System&, Poller* poller, PollEvent* events, int capacity, int64_t timeout) {
    if (capacity > events_per_call) capacity = events_per_call;
    if (timeout > posix::longest_wait) timeout = posix::longest_wait;
    timespec time{};
    time.tv_sec = static_cast<time_t>(timeout / 1'000'000'000);
    time.tv_nsec = static_cast<long>(timeout % 1'000'000'000);
    const int count = posix::or_error(kevent(poller->fd, nullptr, 0, poller->events, capacity,
                                             timeout < 0 ? nullptr : &time));
    if (count < 0) return count == -EINTR ? 0 : count;
    int told = 0;
    for (int i = 0; i < count; ++i) {
        const struct kevent& event = poller->events[i];
        const auto fd = static_cast<int>(event.ident);
        if (poller->tokens.has(fd) && poller->tokens[fd] != unused)
            events[told++] = {poller->tokens[fd], readiness(event)};
    }
    return told;
}

}  // namespace

constinit const System production_system =
    posix::table({"kqueue", open, close, add, remove, nullptr, wait});

}  // namespace copse

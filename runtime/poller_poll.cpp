// Poller, poll: readiness from poll(2), for kernels that offer nothing better.
//
// poll() tells of a state, not of a change, so edges are made here: a direction that was reported
// is not asked for again until rearm() says that it was found not ready. A descriptor neither of
// whose directions is asked for is hidden from poll() altogether, since poll() reports errors and
// hang-ups whether asked for or not: one such descriptor would keep the wait from waiting.
//
// Invariants:
//  - asked[i] and tokens[i] belong together, for 0 <= i < count; the array has no holes.
//  - places[fd] is the i of a descriptor that is registered, and absent for every other.
//  - asked[i].fd is ~fd exactly where asked[i].events is 0.
#include "runtime/system_posix.h"

#include <poll.h>
#include <time.h>

namespace copse {

struct Poller {
    posix::Array<pollfd> asked;
    posix::Array<uint64_t> tokens;
    posix::Array<int> places;
    int count = 0;
    int next = 0;  // where the next look begins: a long list does not starve its end
};

namespace {

constexpr int absent = -1;

#ifdef POLLRDHUP
constexpr short ask_read = POLLIN | POLLRDHUP;
constexpr short peer_closed = POLLRDHUP;
#else
constexpr short ask_read = POLLIN;
constexpr short peer_closed = 0;
#endif
constexpr short ask_write = POLLOUT;
constexpr short broken = POLLERR | POLLHUP | POLLNVAL;

int place_of(const Poller* poller, int fd) {
    return poller->places.has(fd) ? poller->places[fd] : absent;
}

int descriptor(const pollfd& entry) { return entry.fd < 0 ? ~entry.fd : entry.fd; }

void ask(pollfd& entry, int events) {
    const int fd = descriptor(entry);
    entry.events = static_cast<short>(events);
    entry.fd = events ? fd : ~fd;
}

int open(const System& system, Poller** out) {
    auto* poller = static_cast<Poller*>(system.allocate(system, sizeof(Poller)));
    if (!poller) return -ENOMEM;
    *poller = Poller{};
    *out = poller;
    return 0;
}

void close(const System& system, Poller* poller) {
    poller->asked.drop(system);
    poller->tokens.drop(system);
    poller->places.drop(system);
    system.release(system, poller, sizeof(Poller));
}

int add(const System& system, Poller* poller, int fd, uint64_t token) {
    if (int error = posix::refuse_files(fd); error < 0) return error;
    if (place_of(poller, fd) != absent) return -EEXIST;
    const int place = poller->count;
    if (!poller->places.reach(system, fd, absent) || !poller->asked.reach(system, place, {}) ||
        !poller->tokens.reach(system, place, 0))
        return -ENOMEM;
    ++poller->count;
    poller->asked[place] = {fd, ask_read | ask_write, 0};
    poller->tokens[place] = token;
    poller->places[fd] = place;
    return 0;
}

int remove(const System&, Poller* poller, int fd) {
    const int place = place_of(poller, fd);
    if (place == absent) return -ENOENT;
    const int last = --poller->count;
    poller->asked[place] = poller->asked[last];
    poller->tokens[place] = poller->tokens[last];
    poller->places[descriptor(poller->asked[place])] = place;
    poller->places[fd] = absent;
    return 0;
}

void rearm(const System&, Poller* poller, int fd, uint32_t readiness) {
    const int place = place_of(poller, fd);
    if (place == absent) return;
    int events = poller->asked[place].events;
    if (readiness & PollEvent::readable) events |= ask_read;
    if (readiness & PollEvent::writable) events |= ask_write;
    ask(poller->asked[place], events);
}

// Waiting ---------------------------------------------------------------------------------------

int ask_kernel(Poller* poller, int64_t timeout) {
    const auto count = static_cast<nfds_t>(poller->count);
#ifdef __APPLE__
    return posix::or_error(
        poll(poller->asked.items, count, timeout < 0 ? -1 : posix::milliseconds(timeout)));
#else
    timespec time{};
    time.tv_sec = static_cast<time_t>(timeout / 1'000'000'000);
    time.tv_nsec = static_cast<long>(timeout % 1'000'000'000);
    const timespec* limit = timeout < 0 ? nullptr : &time;
    return posix::or_error(ppoll(poller->asked.items, count, limit, nullptr));
#endif
}

uint32_t readiness(int found) {
    uint32_t ready = 0;
    if (found & POLLIN) ready |= PollEvent::readable;
    if (found & POLLOUT) ready |= PollEvent::writable;
    if (found & peer_closed) ready |= PollEvent::readable | PollEvent::hangup;
    if (found & broken) ready |= PollEvent::readable | PollEvent::writable | PollEvent::hangup;
    return ready;
}

int wait(const System&, Poller* poller, PollEvent* events, int capacity, int64_t timeout) {
    if (timeout > posix::longest_wait) timeout = posix::longest_wait;
    const int found = ask_kernel(poller, timeout);
    if (found < 0) return found == -EINTR ? 0 : found;
    int told = 0, seen = 0;
    int place = poller->next < poller->count ? poller->next : 0;
    for (int looked = 0; looked < poller->count && seen < found && told < capacity; ++looked) {
        pollfd& entry = poller->asked[place];
        if (entry.revents && entry.fd >= 0) {
            ++seen;
            const uint32_t ready = readiness(entry.revents);
            events[told++] = {poller->tokens[place], ready};
            int left = entry.events;
            if (ready & PollEvent::readable) left &= ~ask_read;
            if (ready & PollEvent::writable) left &= ~ask_write;
            ask(entry, left);
        }
        if (++place == poller->count) place = 0;
    }
    poller->next = place;
    return told;
}

}  // namespace

constinit const System production_system =
    posix::table({"poll", open, close, add, remove, rearm, wait});

}  // namespace copse

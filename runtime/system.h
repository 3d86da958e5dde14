// System: everything copse asks of the kernel and of libc, as one table of functions.
//
// A loop is bound to a table when it is made. production_system is the table that asks the real
// kernel; a simulator is another; a test that injects faults copies one and replaces some entries.
// Nothing else in arch/, runtime/ or net/ may have an effect: no clock, no random number, no
// allocation, no descriptor and no signal except through here (a test reads the objects' symbols).
//
// Invariants:
//  - An entry returns its result or -errno; errno itself never crosses the table.
//  - An entry never calls back into the loop.
//  - Every descriptor an entry returns is close-on-exec and non-blocking.
//  - The first argument is the table itself, so that a derived table finds its own state.
#pragma once

#include <copse/config.h>

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

namespace copse {

// What the poller says of a watch: the token it was registered with, and what may have changed.
struct PollEvent {
    uint64_t token;
    uint32_t ready;  // of Readiness

    enum Readiness : uint32_t {
        readable = 1,  // a read might do something
        writable = 2,  // a write might do something
        hangup = 4,    // the peer will send no more, or an error is pending: read to the end
    };
};

// How a stack is kept from growing into its neighbour.
enum class Guard : uint8_t {
    kernel,    // guard markers in the page table: no mapping of its own
    mprotect,  // an inaccessible mapping: two mappings a stack
    canary,    // painted words, checked when the thread is switched out
};

// Where more than one way is right, a table may choose; production takes the usual one, always.
enum class Choice : uint8_t {
    event,   // which of n poll events is handled next
    bytes,   // how many of n bytes a call leaves for the next one
    way,     // 1 of 2: the long way round, where a short cut was open
};

// The ready threads of which one is to run next.
struct Candidates {
    uint32_t count;
    uint64_t (*identity)(const Candidates&, uint32_t index);  // Thread::id()
};

struct Poller;  // the backend's own state

struct System {
    const char* name;         // of the table: "linux", "bsd", "simulation"
    const char* poller_name;  // "epoll", "kqueue", "poll"

    // Time and chance ---------------------------------------------------------------------------
    int64_t (*now)(const System&);                       // monotonic nanoseconds, never negative
    void (*random)(const System&, void* out, size_t size);
    // One of n, 0 being the usual; null where nothing is ever chosen.
    uint32_t (*choose)(const System&, Choice, uint32_t n);
    // An index below the count, 0 being whose turn it is. Asked at each dispatch; null: the first.
    uint32_t (*choose_thread)(const System&, const Candidates&);

    // Memory ------------------------------------------------------------------------------------
    void* (*allocate)(const System&, size_t size);       // aligned for anything; null: none left
    void (*release)(const System&, void* memory, size_t size);
    void* (*map)(const System&, size_t size);            // zeroed pages, reserved lazily; or null
    void (*unmap)(const System&, void* memory, size_t size);
    int (*guard)(const System&, void* memory, size_t size, Guard);  // kernel or mprotect; -errno
    // Gives the pages back: zeroes when next touched. The range holds no guard, those around stay.
    void (*discard)(const System&, void* memory, size_t size);
    // The lowest byte offset in [memory, memory + size) that lies on a page in memory; size if
    // none does.
    size_t (*lowest_resident)(const System&, const void* memory, size_t size);
    size_t (*page_size)(const System&);

    // Readiness ---------------------------------------------------------------------------------
    // Edge-triggered: an event tells of a change since the last one; spurious ones are allowed.
    int (*poller_open)(const System&, Poller** out);
    void (*poller_close)(const System&, Poller*);
    // Registers a descriptor for both directions, once. The token is any but ~0. EPERM: it cannot
    // be polled.
    int (*poller_add)(const System&, Poller*, int fd, uint64_t token);
    int (*poller_remove)(const System&, Poller*, int fd);
    // Null where readiness is edge-triggered by nature. Where it is not (poll), tells that this
    // direction was found not ready and its next readiness is wanted.
    void (*poller_rearm)(const System&, Poller*, int fd, uint32_t readiness);
    // Waits for at most timeout nanoseconds (0: looks; negative: for ever), rounding up. Returns
    // the number of events, 0 at the timeout and when a signal interrupted, or -errno.
    int (*poller_wait)(const System&, Poller*, PollEvent* events, int capacity, int64_t timeout);

    // Descriptors -------------------------------------------------------------------------------
    int (*open_socket)(const System&, int family, int type, int protocol);
    int (*open_pair)(const System&, int family, int type, int out[2]);
    int (*adopt)(const System&, int fd);  // makes a descriptor of the user's non-blocking, cloexec
    int (*close)(const System&, int fd);  // never retried
    int (*bind)(const System&, int fd, const sockaddr*, socklen_t);
    int (*listen)(const System&, int fd, int backlog);
    int (*accept)(const System&, int fd, sockaddr*, socklen_t*);
    int (*connect)(const System&, int fd, const sockaddr*, socklen_t);
    int (*shutdown)(const System&, int fd, int how);
    int (*get_peer_name)(const System&, int fd, sockaddr*, socklen_t*);
    int (*get_socket_name)(const System&, int fd, sockaddr*, socklen_t*);
    int (*get_option)(const System&, int fd, int level, int name, void*, socklen_t*);
    int (*set_option)(const System&, int fd, int level, int name, const void*, socklen_t);
    ssize_t (*receive)(const System&, int fd, void* out, size_t size);
    // One vectored write; never raises SIGPIPE.
    ssize_t (*send)(const System&, int fd, const iovec* pieces, int count);
    int (*unlink)(const System&, const char* path);
    // The address that a host's name stands for, told at once; -ENOENT. Null where nobody knows.
    int (*look_up)(const System&, const char* name, void* address, socklen_t* size);
    // How many descriptors this process may have; 0 if that cannot be told.
    size_t (*descriptor_limit)(const System&);

    // The process -------------------------------------------------------------------------------
    // Writes all of it to a descriptor, as far as that goes: diagnostics only.
    void (*write_all)(const System&, int fd, const char* text, size_t size);
    // A number that every fork() bumps in the child. It stays where it is: a loop keeps its address
    // and looks at it in every call that parks.
    const uint32_t* (*fork_count)(const System&);
    // Calls fn(context) when the calling OS thread ends. -errno.
    int (*at_thread_end)(const System&, void (*fn)(void*), void* context);
    // Has memory faults on this OS thread handled on a stack of their own. The handler answers
    // whether the address was one of ours; either way the fault then goes where it went before.
    // drop_faults() gives that stack back.
    int (*catch_faults)(const System&, bool (*handler)(void* address));
    void (*drop_faults)(const System&);
};

// The table of this machine.
COPSE_API extern const System production_system;

// The table that the next loop of this OS thread will be bound to; null: production_system.
COPSE_API void use_system(const System*);
COPSE_API const System* chosen_system();  // null: none was
const System& system_to_use();

// Writes "copse: file:line: what" to standard error and aborts. See check.h.
[[noreturn]] COPSE_API void fatal(const char* file, int line, const char* what) noexcept;

}  // namespace copse

// The parts of a POSIX machine's system table, and what they ask of each other.
//
// production_system is put together from three files: system_posix.cpp (what POSIX shares),
// system_linux.cpp or system_bsd.cpp (where kernels differ) and one poller_*.cpp. The poller's
// file defines the table itself, from table() below: linking two backends is a link error, and a
// backend without a rearm has a null in a table that is constant all the same.
#pragma once

#include "runtime/system.h"

#include <errno.h>
#include <string.h>

namespace copse::posix {

// Longest single wait. A caller with a later deadline finds no event and waits again; no kernel's
// own limit, and no overflow on the way to it, is ever met.
constexpr int64_t longest_wait = int64_t{3600} * 1'000'000'000;

template <class Result> Result or_error(Result result) {
    return result < 0 ? static_cast<Result>(-errno) : result;
}

// The result or -errno of a call that a signal may interrupt before it has done anything.
template <class Call> auto retried(Call call) {
    for (;;) {
        auto result = or_error(call());
        if (result != -EINTR) return result;
    }
}

// Rounded up: a deadline may be found late, never early.
constexpr int milliseconds(int64_t nanoseconds) {
    return static_cast<int>((nanoseconds + 999'999) / 1'000'000);
}

// Where kernels differ: system_linux.cpp, system_bsd.cpp ----------------------------------------

extern const char name[];
int64_t now(const System&);
void random(const System&, void* out, size_t size);
void prepare_stacks(void* memory, size_t size);  // a fresh mapping that will hold stacks
int guard_in_page_table(void* memory, size_t size);
void discard(const System&, void* memory, size_t size);
// One byte a page, its lowest bit set where the page is in memory. 0 or -errno.
int residency(const void* memory, size_t size, unsigned char* out);
size_t smallest_signal_stack();
int open_socket(const System&, int family, int type, int protocol);
int open_pair(const System&, int family, int type, int out[2]);
int accept(const System&, int fd, sockaddr*, socklen_t*);
int adopt(const System&, int fd);

// What they share: system_posix.cpp -------------------------------------------------------------

void* allocate(const System&, size_t size);
void release(const System&, void* memory, size_t size);
void* map(const System&, size_t size);
void unmap(const System&, void* memory, size_t size);
int guard(const System&, void* memory, size_t size, Guard);
size_t lowest_resident(const System&, const void* memory, size_t size);
size_t page_size(const System&);

int close(const System&, int fd);
int bind(const System&, int fd, const sockaddr*, socklen_t);
int listen(const System&, int fd, int backlog);
int connect(const System&, int fd, const sockaddr*, socklen_t);
int shutdown(const System&, int fd, int how);
int get_peer_name(const System&, int fd, sockaddr*, socklen_t*);
int get_socket_name(const System&, int fd, sockaddr*, socklen_t*);
int get_option(const System&, int fd, int level, int name, void*, socklen_t*);
int set_option(const System&, int fd, int level, int name, const void*, socklen_t);
ssize_t receive(const System&, int fd, void* out, size_t size);
ssize_t send(const System&, int fd, const iovec* pieces, int count);
int unlink(const System&, const char* path);
size_t descriptor_limit(const System&);

void write_all(const System&, int fd, const char* text, size_t size);
const uint32_t* fork_count(const System&);
int at_thread_end(const System&, void (*fn)(void*), void* context);
int catch_faults(const System&, bool (*handler)(void* address));
void drop_faults(const System&);

// Close-on-exec and non-blocking, from fcntl. 0 or -errno.
int set_descriptor_flags(int fd);
// -EPERM for what epoll refuses because it is always ready: regular files, directories and disks.
// The other backends would take them and then say nothing, or never stop.
int refuse_files(int fd);

// What a backend keeps by descriptor or by place, in memory of the system's. Moves when it grows.
template <class Item> struct Array {
    Item* items = nullptr;
    int size = 0;

    Item& operator[](int index) { return items[index]; }
    const Item& operator[](int index) const { return items[index]; }
    bool has(int index) const { return index >= 0 && index < size; }

    // Makes index valid, new items being copies of empty. Where there is no memory: false, and
    // nothing has changed.
    bool reach(const System& system, int index, const Item& empty) {
        if (index < size) return true;
        int wanted = size ? size : 64;
        while (wanted <= index) wanted *= 2;
        auto* grown = static_cast<Item*>(system.allocate(system, bytes(wanted)));
        if (!grown) return false;
        if (size) memcpy(grown, items, bytes(size));
        for (int i = size; i < wanted; ++i) grown[i] = empty;
        drop(system);
        items = grown;
        size = wanted;
        return true;
    }
    void drop(const System& system) {
        if (items) system.release(system, items, bytes(size));
    }

  private:
    static size_t bytes(int count) { return sizeof(Item) * static_cast<size_t>(count); }
};

struct Backend {
    const char* name;
    decltype(System::poller_open) open;
    decltype(System::poller_close) close;
    decltype(System::poller_add) add;
    decltype(System::poller_remove) remove;
    decltype(System::poller_rearm) rearm;
    decltype(System::poller_wait) wait;
};

constexpr System table(const Backend& poller) {
    return System{
        .name = name,
        .poller_name = poller.name,
        .now = now,
        .random = random,
        .choose = nullptr,
        .choose_thread = nullptr,
        .allocate = allocate,
        .release = release,
        .map = map,
        .unmap = unmap,
        .guard = guard,
        .discard = discard,
        .lowest_resident = lowest_resident,
        .page_size = page_size,
        .poller_open = poller.open,
        .poller_close = poller.close,
        .poller_add = poller.add,
        .poller_remove = poller.remove,
        .poller_rearm = poller.rearm,
        .poller_wait = poller.wait,
        .open_socket = open_socket,
        .open_pair = open_pair,
        .adopt = adopt,
        .close = close,
        .bind = bind,
        .listen = listen,
        .accept = accept,
        .connect = connect,
        .shutdown = shutdown,
        .get_peer_name = get_peer_name,
        .get_socket_name = get_socket_name,
        .get_option = get_option,
        .set_option = set_option,
        .receive = receive,
        .send = send,
        .unlink = unlink,
        .look_up = nullptr,
        .descriptor_limit = descriptor_limit,
        .write_all = write_all,
        .fork_count = fork_count,
        .at_thread_end = at_thread_end,
        .catch_faults = catch_faults,
        .drop_faults = drop_faults,
    };
}

}  // namespace copse::posix

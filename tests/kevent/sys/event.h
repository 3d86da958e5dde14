// <sys/event.h>: as much of the BSDs' header as poller_kqueue.cpp needs, for building it on Linux.
//
// kevent.cpp beside this folder implements it over epoll, so that the kqueue backend's logic runs
// the whole suite where there is no BSD. It is no kqueue: see its opening for what it cannot do.
#pragma once
#pragma GCC system_header  // kevent is a struct and a function: -Wshadow objects, as to a BSD's own

#include <stdint.h>
#include <time.h>

#define EVFILT_READ (-1)
#define EVFILT_WRITE (-2)

#define EV_ADD 0x0001
#define EV_DELETE 0x0002
#define EV_ENABLE 0x0004
#define EV_CLEAR 0x0020
#define EV_ERROR 0x4000
#define EV_EOF 0x8000

struct kevent {
    uintptr_t ident;
    int16_t filter;
    uint16_t flags;
    uint32_t fflags;
    intptr_t data;
    void* udata;
};

extern "C" {
int kqueue(void);
int kevent(int queue, const struct kevent* changes, int change_count, struct kevent* events,
           int capacity, const struct timespec* timeout);
}

// kevent: kqueue() and kevent() over epoll, for testing the kqueue backend on Linux.
//
// A queue is two epoll sets, one a filter, because epoll has one registration for a descriptor and
// could not tell which direction changed. The set for reading is the queue's descriptor.
//
// As on a BSD: filters of one descriptor are separate; EV_CLEAR makes edges; deleting what is not
// there is ENOENT; changes that fail are an EV_ERROR event where there is room and errno where
// there is none, and then nothing is waited for; close() drops a descriptor's filters though a
// dup() of it lives; a child of fork() has no queues.
// Not as on a BSD: dup2() over a descriptor leaves its filters; EV_EOF carries no error in fflags;
// a socket that is not connected yet may be called writable; an end of input wakes both filters.
#include <sys/event.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

constexpr int filters = 2;  // reading, writing

struct Knote {
    bool present[filters];
    bool clear[filters];
    void* udata[filters];
};

struct Queue {
    int sets[filters];
    Knote* knotes;  // by descriptor
    int knote_count;
    unsigned turn;  // which filter is asked first, so that neither starves the other
    Queue* next;
};

Queue* queues = nullptr;
pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

struct Locked {
    Locked() { pthread_mutex_lock(&mutex); }
    ~Locked() { pthread_mutex_unlock(&mutex); }
};

int really_close(int fd) { return static_cast<int>(syscall(SYS_close, fd)); }

Queue** find(int fd) {
    Queue** at = &queues;
    while (*at && (*at)->sets[0] != fd) at = &(*at)->next;
    return at;
}

void destroy(Queue** at) {
    Queue* queue = *at;
    *at = queue->next;
    for (int set : queue->sets) really_close(set);
    free(queue->knotes);
    free(queue);
}

void lose_queues_in_child() {
    while (queues) destroy(&queues);
    pthread_mutex_unlock(&mutex);
}

void watch_forks() {
    pthread_atfork([] { pthread_mutex_lock(&mutex); }, [] { pthread_mutex_unlock(&mutex); },
                   lose_queues_in_child);
}

bool reach(Queue* queue, int fd) {
    if (fd < queue->knote_count) return true;
    int wanted = queue->knote_count ? queue->knote_count : 64;
    while (wanted <= fd) wanted *= 2;
    auto* grown = static_cast<Knote*>(
        realloc(queue->knotes, sizeof(Knote) * static_cast<size_t>(wanted)));
    if (!grown) return false;
    for (int i = queue->knote_count; i < wanted; ++i) grown[i] = Knote{};
    queue->knotes = grown;
    queue->knote_count = wanted;
    return true;
}

int remove(Queue* queue, int fd, int which) {
    if (fd >= queue->knote_count || !queue->knotes[fd].present[which]) return ENOENT;
    queue->knotes[fd].present[which] = false;
    epoll_event none{};
    return epoll_ctl(queue->sets[which], EPOLL_CTL_DEL, fd, &none) < 0 ? errno : 0;
}

int add(Queue* queue, const struct kevent& change, int which) {
    const int fd = static_cast<int>(change.ident);
    if (!reach(queue, fd)) return ENOMEM;
    Knote& knote = queue->knotes[fd];
    epoll_event event{};
    event.events = which == 0 ? EPOLLIN | EPOLLRDHUP : EPOLLOUT;
    if (change.flags & EV_CLEAR) event.events |= EPOLLET;
    event.data.fd = fd;
    const int operation = knote.present[which] ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (epoll_ctl(queue->sets[which], operation, fd, &event) < 0) return errno;
    knote.present[which] = true;
    knote.clear[which] = change.flags & EV_CLEAR;
    knote.udata[which] = change.udata;
    return 0;
}

int make(Queue* queue, const struct kevent& change) {
    const int fd = static_cast<int>(change.ident);
    if (fd < 0) return EBADF;
    if (change.filter != EVFILT_READ && change.filter != EVFILT_WRITE) return EINVAL;
    const int which = change.filter == EVFILT_READ ? 0 : 1;
    if (change.flags & EV_DELETE) return remove(queue, fd, which);
    if (change.flags & EV_ADD) return add(queue, change, which);
    // What is enabled already stays so; what is not there cannot be.
    if (!(change.flags & EV_ENABLE)) return EINVAL;
    return fd < queue->knote_count && queue->knotes[fd].present[which] ? 0 : ENOENT;
}

// How many events it took to say what failed, or -1 and errno.
int make_all(Queue* queue, const struct kevent* changes, int count, struct kevent* events,
             int capacity) {
    int told = 0;
    for (int i = 0; i < count; ++i) {
        const int error = make(queue, changes[i]);
        if (error == 0) continue;
        if (told == capacity) {
            errno = error;
            return -1;
        }
        events[told] = changes[i];
        events[told].flags = EV_ERROR;
        events[told++].data = error;
    }
    return told;
}

struct kevent event_of(const Queue* queue, const epoll_event& found, int which) {
    const int fd = found.data.fd;
    struct kevent event {};
    event.ident = static_cast<uintptr_t>(fd);
    event.filter = which == 0 ? EVFILT_READ : EVFILT_WRITE;
    event.udata = queue->knotes[fd].udata[which];
    if (queue->knotes[fd].clear[which]) event.flags |= EV_CLEAR;
    if (found.events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) event.flags |= EV_EOF;
    int waiting = 0;
    if (which == 0 && ioctl(fd, FIONREAD, &waiting) == 0) event.data = waiting;
    return event;
}

int harvest(Queue* queue, int which, struct kevent* events, int capacity) {
    epoll_event found[64];
    int told = 0;
    while (told < capacity) {
        const int room = capacity - told < 64 ? capacity - told : 64;
        const int count = epoll_wait(queue->sets[which], found, room, 0);
        for (int i = 0; i < count; ++i) {
            // A dup() of a closed descriptor may still stir epoll; on a BSD it stirs nothing.
            const int fd = found[i].data.fd;
            if (fd < queue->knote_count && queue->knotes[fd].present[which])
                events[told++] = event_of(queue, found[i], which);
        }
        if (count < room) break;
    }
    return told;
}

}  // namespace

extern "C" int kqueue(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    auto* queue = static_cast<Queue*>(calloc(1, sizeof(Queue)));
    if (!queue) {
        errno = ENOMEM;
        return -1;
    }
    Locked locked;
    queue->sets[0] = epoll_create1(EPOLL_CLOEXEC);
    queue->sets[1] = queue->sets[0] < 0 ? -1 : epoll_create1(EPOLL_CLOEXEC);
    if (queue->sets[1] < 0) {
        const int error = errno;
        if (queue->sets[0] >= 0) really_close(queue->sets[0]);
        free(queue);
        errno = error;
        return -1;
    }
    queue->next = queues;
    queues = queue;
    return queue->sets[0];
}

extern "C" int kevent(int fd, const struct kevent* changes, int change_count,
                      struct kevent* events, int capacity, const timespec* timeout) {
    pollfd sets[filters];
    {
        Locked locked;
        Queue* queue = *find(fd);
        if (!queue) {
            errno = EBADF;
            return -1;
        }
        const int failed = make_all(queue, changes, change_count, events, capacity);
        if (failed != 0 || capacity == 0) return failed;
        for (int i = 0; i < filters; ++i) sets[i] = {queue->sets[i], POLLIN, 0};
    }
    // An epoll set is readable while it has something to tell.
    const int ready = ppoll(sets, filters, timeout, nullptr);
    if (ready <= 0) return ready;
    Locked locked;
    Queue* queue = *find(fd);
    if (!queue) return 0;
    const int first = static_cast<int>(queue->turn++ % filters);
    const int told = harvest(queue, first, events, capacity);
    return told + harvest(queue, 1 - first, events + told, capacity - told);
}

// Stands in for libc's: on a BSD a queue ends, and forgets a descriptor, when it is closed.
extern "C" int close(int fd) {
    {
        Locked locked;
        if (Queue** at = find(fd); *at) {
            destroy(at);
            return 0;
        }
        for (Queue* queue = queues; queue; queue = queue->next)
            for (int which = 0; which < filters; ++which) remove(queue, fd, which);
    }
    return really_close(fd);
}

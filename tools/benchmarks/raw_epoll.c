// Raw epoll: the least that a server in one thread can do; what copse's network is measured
// against.
//
// It has no threads, no buffers of its own and no deadlines, but it is correct: what the kernel
// does not take at once is kept and sent when there is room, nothing more is read until then, and a
// request of HTTP may be cut anywhere.
//
//   lt    level-triggered: one recv() and one send() an event
//   et    edge-triggered, registered once; a read that was short has emptied the queue
//   spin  et, and asks epoll again and again instead of sleeping
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static const char usage[] = "usage: copse-bench-raw-epoll echo|http lt|et|spin [PORT]\n";
static const char hello[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n"
                            "\r\nHello, World!";
enum { hello_size = sizeof hello - 1, hellos_at_once = 64, events_at_once = 1024 };

struct connection {
    int fd;
    int matched;   // bytes of the blank line that the last read ended in
    char* unsent;  // or null: what the kernel would not take
    size_t unsent_size, unsent_at;
};

static bool http, edge, spin;
static int epoll;
static char hellos[hello_size * hellos_at_once];

static void must(bool good, const char* what) {
    if (good) return;
    perror(what);
    exit(1);
}

static void close_connection(struct connection* peer) {
    close(peer->fd);
    free(peer->unsent);
    free(peer);
}

static void watch(struct connection* peer, int operation) {
    struct epoll_event event = {.data.ptr = peer};
    if (edge)
        event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
    else
        event.events = peer->unsent ? EPOLLOUT : EPOLLIN;
    must(epoll_ctl(epoll, operation, peer->fd, &event) == 0, "epoll_ctl");
}

// Sending -----------------------------------------------------------------------------------------

static void keep(struct connection* peer, const char* bytes, size_t size) {
    bool first = !peer->unsent;
    peer->unsent = realloc(peer->unsent, peer->unsent_size + size);
    must(peer->unsent, "realloc");
    memcpy(peer->unsent + peer->unsent_size, bytes, size);
    peer->unsent_size += size;
    if (first && !edge) watch(peer, EPOLL_CTL_MOD);
}

static bool answer(struct connection* peer, const char* bytes, size_t size) {
    ssize_t sent = peer->unsent ? 0 : send(peer->fd, bytes, size, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) return false;
    if (sent < 0) sent = 0;
    if ((size_t)sent < size) keep(peer, bytes + sent, size - (size_t)sent);
    return true;
}

static bool send_unsent(struct connection* peer) {
    ssize_t sent = send(peer->fd, peer->unsent + peer->unsent_at,
                        peer->unsent_size - peer->unsent_at, MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN;
    peer->unsent_at += (size_t)sent;
    if (peer->unsent_at < peer->unsent_size) return true;
    free(peer->unsent);
    peer->unsent = NULL;
    peer->unsent_size = peer->unsent_at = 0;
    if (!edge) watch(peer, EPOLL_CTL_MOD);
    return true;
}

// Receiving ---------------------------------------------------------------------------------------

static bool answer_http(struct connection* peer, const char* bytes, size_t size) {
    static const char blank_line[] = "\r\n\r\n";
    size_t requests = 0;
    for (size_t i = 0; i < size; ++i) {
        if (bytes[i] == blank_line[peer->matched])
            ++peer->matched;
        else
            peer->matched = bytes[i] == '\r';
        if (peer->matched == 4) ++requests, peer->matched = 0;
    }
    while (requests > 0) {
        size_t now = requests < hellos_at_once ? requests : hellos_at_once;
        if (!answer(peer, hellos, now * hello_size)) return false;
        requests -= now;
    }
    return true;
}

// False when the connection is at its end.
static bool receive(struct connection* peer, unsigned events) {
    static char bytes[65536];
    for (;;) {
        ssize_t got = recv(peer->fd, bytes, sizeof bytes, 0);
        if (got < 0 && errno == EAGAIN) return true;
        if (got <= 0) return false;
        size_t size = (size_t)got;
        if (!(http ? answer_http : answer)(peer, bytes, size)) return false;
        if (!edge || peer->unsent) return true;
        if (size < sizeof bytes && !(events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))) return true;
    }
}

static bool handle(struct connection* peer, unsigned events) {
    if (peer->unsent) {
        if (!(events & (EPOLLOUT | EPOLLERR | EPOLLHUP))) return true;
        if (!send_unsent(peer)) return false;
        if (peer->unsent || !edge) return true;
        return receive(peer, events | EPOLLRDHUP);  // whatever came meanwhile made no other edge
    }
    if (!(events & ~(unsigned)EPOLLOUT)) return true;
    return receive(peer, events);
}

static void accept_all(int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            must(errno == EAGAIN || errno == ECONNABORTED || errno == EINTR, "accept");
            return;
        }
        struct connection* peer = calloc(1, sizeof *peer);
        must(peer, "calloc");
        peer->fd = fd;
        watch(peer, EPOLL_CTL_ADD);
    }
}

static int listen_on(int port) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    must(fd >= 0, "socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);  // connections inherit it
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    must(bind(fd, (struct sockaddr*)&address, size) == 0, "bind");
    must(listen(fd, 4096) == 0, "listen");
    must(getsockname(fd, (struct sockaddr*)&address, &size) == 0, "getsockname");
    printf("listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

int main(int words, char** word) {
    if (words < 3) {
        fputs(usage, stderr);
        return 2;
    }
    http = strcmp(word[1], "http") == 0;
    edge = strcmp(word[2], "lt") != 0;
    spin = strcmp(word[2], "spin") == 0;
    struct rlimit descriptors;
    getrlimit(RLIMIT_NOFILE, &descriptors);
    descriptors.rlim_cur = descriptors.rlim_max;
    setrlimit(RLIMIT_NOFILE, &descriptors);
    for (int i = 0; i < hellos_at_once; ++i) memcpy(hellos + i * hello_size, hello, hello_size);

    epoll = epoll_create1(EPOLL_CLOEXEC);
    struct connection listener = {.fd = listen_on(words > 3 ? atoi(word[3]) : 0)};
    struct epoll_event of_listener = {.events = EPOLLIN, .data.ptr = &listener};
    must(epoll_ctl(epoll, EPOLL_CTL_ADD, listener.fd, &of_listener) == 0, "epoll_ctl");
    for (;;) {
        struct epoll_event events[events_at_once];
        int ready = epoll_wait(epoll, events, events_at_once, spin ? 0 : -1);
        must(ready >= 0 || errno == EINTR, "epoll_wait");
        for (int i = 0; i < ready; ++i) {
            struct connection* peer = events[i].data.ptr;
            if (peer == &listener)
                accept_all(listener.fd);
            else if (!handle(peer, events[i].events))
                close_connection(peer);
        }
    }
}

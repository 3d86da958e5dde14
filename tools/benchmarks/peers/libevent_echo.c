// libevent: an echo server over its buffered events: what was read is moved to what is written.
#include <arpa/inet.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <netinet/tcp.h>
#include <stdio.h>

static void received(struct bufferevent* peer, void* unused) {
    (void)unused;
    bufferevent_write_buffer(peer, bufferevent_get_input(peer));
}

static void happened(struct bufferevent* peer, short what, void* unused) {
    (void)unused;
    if (what & (BEV_EVENT_EOF | BEV_EVENT_ERROR)) bufferevent_free(peer);
}

static void connected(struct evconnlistener* listener, evutil_socket_t fd, struct sockaddr* from,
                      int from_size, void* unused) {
    (void)from, (void)from_size, (void)unused;
    struct bufferevent* peer =
        bufferevent_socket_new(evconnlistener_get_base(listener), fd, BEV_OPT_CLOSE_ON_FREE);
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    bufferevent_setcb(peer, received, NULL, happened, NULL);
    bufferevent_enable(peer, EV_READ | EV_WRITE);
}

int main(void) {
    struct event_base* base = event_base_new();
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    struct evconnlistener* listener =
        evconnlistener_new_bind(base, connected, NULL, LEV_OPT_CLOSE_ON_FREE, 4096,
                                (struct sockaddr*)&address, sizeof address);
    if (!listener ||
        getsockname(evconnlistener_get_fd(listener), (struct sockaddr*)&address, &size))
        return 1;
    printf("listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return event_base_dispatch(base);
}

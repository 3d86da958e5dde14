// State Threads: an echo server, a thread a connection.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <st.h>
#include <stdio.h>
#include <sys/socket.h>

enum { stack_size = 16384 };

static void* echo(void* argument) {
    st_netfd_t peer = argument;
    char bytes[4096];
    for (ssize_t got; (got = st_read(peer, bytes, sizeof bytes, ST_UTIME_NO_TIMEOUT)) > 0;)
        if (st_write(peer, bytes, (size_t)got, ST_UTIME_NO_TIMEOUT) != got) break;
    st_netfd_close(peer);
    return NULL;
}

static st_netfd_t listen_anywhere(void) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (fd < 0 || bind(fd, (struct sockaddr*)&address, size) || listen(fd, 4096) ||
        getsockname(fd, (struct sockaddr*)&address, &size))
        return NULL;
    printf("listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return st_netfd_open_socket(fd);
}

int main(void) {
    st_set_eventsys(ST_EVENTSYS_ALT);  // epoll, where it was built with it
    if (st_init()) return 1;
    st_netfd_t listener = listen_anywhere();
    if (!listener) return 1;
    for (;;) {
        st_netfd_t peer = st_accept(listener, NULL, NULL, ST_UTIME_NO_TIMEOUT);
        if (peer && !st_thread_create(echo, peer, 0, stack_size)) st_netfd_close(peer);
    }
}

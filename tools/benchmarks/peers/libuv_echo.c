// libuv: an echo server. Each read has a buffer of its own, which lives until it has been written.
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

struct request {
    uv_write_t write;
    char bytes[4096];
};

static void must(int status, const char* what) {
    if (status >= 0) return;
    fprintf(stderr, "%s: %s\n", what, uv_strerror(status));
    exit(1);
}

static void allocate(uv_handle_t* peer, size_t suggested, uv_buf_t* buffer) {
    (void)peer, (void)suggested;
    struct request* request = malloc(sizeof *request);
    *buffer = request ? uv_buf_init(request->bytes, sizeof request->bytes) : uv_buf_init(NULL, 0);
}

static void free_peer(uv_handle_t* peer) { free(peer); }

static void written(uv_write_t* write, int status) {
    if (status < 0 && !uv_is_closing((uv_handle_t*)write->handle))
        uv_close((uv_handle_t*)write->handle, free_peer);
    free(write);
}

static void received(uv_stream_t* peer, ssize_t got, const uv_buf_t* buffer) {
    struct request* request =
        buffer->base ? (struct request*)(buffer->base - offsetof(struct request, bytes)) : NULL;
    if (got > 0) {
        uv_buf_t bytes = uv_buf_init(request->bytes, (unsigned)got);
        must(uv_write(&request->write, peer, &bytes, 1, written), "uv_write");
        return;
    }
    free(request);
    if (got < 0 && !uv_is_closing((uv_handle_t*)peer)) uv_close((uv_handle_t*)peer, free_peer);
}

static void connected(uv_stream_t* listener, int status) {
    must(status, "connection");
    uv_tcp_t* peer = malloc(sizeof *peer);
    if (!peer) abort();
    must(uv_tcp_init(listener->loop, peer), "uv_tcp_init");
    must(uv_accept(listener, (uv_stream_t*)peer), "uv_accept");
    uv_tcp_nodelay(peer, 1);
    must(uv_read_start((uv_stream_t*)peer, allocate, received), "uv_read_start");
}

int main(void) {
    uv_loop_t* loop = uv_default_loop();
    uv_tcp_t listener;
    struct sockaddr_in address;
    int size = sizeof address;
    uv_ip4_addr("127.0.0.1", 0, &address);
    must(uv_tcp_init(loop, &listener), "uv_tcp_init");
    must(uv_tcp_bind(&listener, (struct sockaddr*)&address, 0), "uv_tcp_bind");
    must(uv_listen((uv_stream_t*)&listener, 4096, connected), "uv_listen");
    must(uv_tcp_getsockname(&listener, (struct sockaddr*)&address, &size), "uv_tcp_getsockname");
    printf("listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return uv_run(loop, UV_RUN_DEFAULT);
}

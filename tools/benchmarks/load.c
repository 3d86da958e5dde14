// Load: keeps a server busy, compares every byte that comes back, and says what it took.
//
// It works a closed loop: each connection sends a burst of --depth messages, waits until every
// answer is there and right, and sends the next one. What is sent follows from the connection's
// number and the burst's, so that what is lost, doubled, swapped or somebody else's is found.
//
// A process may not have enough descriptors for all connections, so children hold them, --processes
// of them. The parent does no more than tell them where the run is (`phase`), and read the counters
// and the server's processor time at the same two moments.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char usage[] =
    "usage: copse-bench-load --port N [--mode echo|http|connect|idle] [--connections 50]\n"
    "           [--size 64] [--depth 1] [--seconds 1] [--warm-up 0.3] [--requests N]\n"
    "           [--processes 1] [--server-pid PID] [--wait]\n"
    "  echo     messages of --size bytes, the last of which is a newline, come back as they were\n"
    "  http     GET / over connections that are kept; every answer is like the first one\n"
    "  connect  each connection is made, asks for one echo, and is closed\n"
    "  idle     each asks for one echo, and no more; implies --wait\n"
    "  --requests N  exactly so many instead of --seconds, none before them as a warm-up\n"
    "  --wait        prints \"ready\" when all have been answered once, goes on at a line on "
    "standard\n"
    "                input, and keeps the connections until that ends\n"
    "Prints one line of JSON. Exit code 0: every byte was right and no connection failed.\n";

enum mode { ECHO, HTTP, CONNECT, IDLE };

static struct {
    int port;
    enum mode mode;
    long connections, size, depth, processes, requests;
    double seconds, warm_up;
    int server_pid;
    bool wait;
} options = {
    .connections = 50, .size = 64, .depth = 1, .processes = 1, .seconds = 1, .warm_up = 0.3};

enum {
    burst_limit = 64 * 1024,  // more would have both ends insist on sending first
    opening_at_once = 64,     // connections without an answer yet; below any backlog
    patience_ms = 10000,
    buckets = 64 * 64,
};

// What parent and children share ------------------------------------------------------------------

enum phase { OPENING, WARMING_UP, MEASURING, ENDING };

static struct {
    _Atomic enum phase phase;
    _Atomic long ready;     // children whose connections have all been answered once
    _Atomic long finished;  // children that have made their --requests
    _Atomic long requests, wrong, failed;
    _Atomic long latencies[buckets];  // of bursts, while measuring; see bucket_of()
} * shared;

static uint64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void complain(const char* what, const char* why) {
    if (atomic_fetch_add(&shared->failed, 1) < 5)
        fprintf(stderr, "copse-bench-load: %s: %s\n", what, why);
}

static void give_up(const char* what) {
    fprintf(stderr, "copse-bench-load: %s: %s\n", what, strerror(errno));
    exit(1);
}

// Latencies are counted in 64 buckets for each power of two: an error of at most 1.6 %.
static int bucket_of(uint64_t ns) {
    if (ns < 64) return (int)ns;
    int shift = 63 - __builtin_clzll(ns) - 5;
    return shift * 64 + (int)((ns >> shift) & 63);
}

static double bucket_us(int bucket) {
    int shift = bucket / 64;
    return (double)((uint64_t)(bucket % 64) << shift) * 1e-3;
}

static double latency_us(double quantile) {
    long total = 0, passed = 0;
    for (int i = 0; i < buckets; ++i) total += shared->latencies[i];
    for (int i = 0; i < buckets; ++i) {
        passed += shared->latencies[i];
        if ((double)passed > quantile * (double)total) return bucket_us(i);
    }
    return 0;
}

// What is sent, and what has to come back ---------------------------------------------------------

static char letters[2 * burst_limit];
static const char get[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
static char gets[burst_limit];                         // as many of them as a burst has
static char reply[burst_limit], replies[burst_limit];  // the first answer; as many as a burst has
static size_t get_burst, reply_size, date_at;
static const size_t date_size = sizeof "Sun, 06 Nov 1994 08:49:37 GMT" - 1;

struct text {
    const char* bytes;
    size_t size;
};

static void make_letters(void) {
    uint64_t state = 88172645463325252u;
    for (size_t i = 0; i < sizeof letters; ++i) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        letters[i] = (char)('0' + state % 75);
    }
}

// A burst of echo messages; valid until the next call.
static struct text echo_burst(uint64_t connection, uint64_t number) {
    static char burst[burst_limit];
    size_t size = (size_t)options.size * (size_t)options.depth;
    memcpy(burst, letters + (connection * 7919 + number * 104729) % burst_limit, size);
    for (long i = 1; i <= options.depth; ++i) burst[i * options.size - 1] = '\n';
    return (struct text){burst, size};
}

static struct text burst_to_send(uint64_t connection, uint64_t number) {
    if (options.mode == HTTP) return (struct text){gets, get_burst};
    return echo_burst(connection, number);
}

static struct text burst_to_come(uint64_t connection, uint64_t number) {
    if (options.mode == HTTP) return (struct text){replies, reply_size * (size_t)options.depth};
    return echo_burst(connection, number);
}

// An answer of HTTP says what time it is, and that may differ from the first one's.
static bool is_date(size_t place) {
    place %= reply_size;
    return date_at && place >= date_at && place < date_at + date_size;
}

static bool same(const char* bytes, struct text expected, size_t at, size_t size) {
    if (memcmp(bytes, expected.bytes + at, size) == 0) return true;
    if (options.mode != HTTP) return false;
    for (size_t i = 0; i < size; ++i)
        if (bytes[i] != expected.bytes[at + i] && !is_date(at + i)) return false;
    return true;
}

// Connections -------------------------------------------------------------------------------------

struct connection {
    int fd;
    bool writing;  // the kernel did not take the whole burst
    size_t sent, received;
    uint64_t id, bursts;  // bursts begun
    uint64_t begun;
};

static struct connection* connections;
static long count, quota;  // of this child; bursts a connection, or LONG_MAX
static long busy;          // connections that wait for an answer
static int epoll;

// Each source address has its own 28,000 ports, so that neither many connections nor those that the
// kernel remembers for a minute after they were closed use them up.
static int dial(void) {
    static unsigned dialled;
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) give_up("socket");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    struct sockaddr_in from = {.sin_family = AF_INET,
                               .sin_addr.s_addr = htonl(0x7f000101 + dialled++ % 100)};
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)options.port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(fd, (struct sockaddr*)&from, sizeof from)) give_up("bind");
    if (connect(fd, (struct sockaddr*)&to, sizeof to)) give_up("connect");
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

static void watch(struct connection* each, int operation) {
    struct epoll_event event = {.events = EPOLLIN | (each->writing ? EPOLLOUT : 0),
                                .data.ptr = each};
    if (epoll_ctl(epoll, operation, each->fd, &event)) give_up("epoll_ctl");
}

static void hang_up(struct connection* each) {
    close(each->fd);
    each->fd = -1;
    --busy;
}

static void lose(struct connection* each, const char* why) {
    complain("a connection", why);
    hang_up(each);
}

static void send_rest(struct connection* each) {
    struct text burst = burst_to_send(each->id, each->bursts);
    ssize_t sent = send(each->fd, burst.bytes + each->sent, burst.size - each->sent, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) return lose(each, strerror(errno));
    if (sent > 0) each->sent += (size_t)sent;
    bool rest = each->sent < burst.size;
    if (rest == each->writing) return;
    each->writing = rest;
    watch(each, EPOLL_CTL_MOD);
}

static void begin_burst(struct connection* each) {
    each->sent = each->received = 0;
    ++each->bursts;
    ++busy;
    each->begun = now_ns();
    send_rest(each);
}

static void reconnect(struct connection* each) {
    close(each->fd);
    each->fd = dial();
    watch(each, EPOLL_CTL_ADD);
}

static bool goes_on(const struct connection* each) {
    enum phase phase = shared->phase;
    if (phase == OPENING) return false;
    return phase != ENDING && (long)each->bursts <= quota;  // the opening's burst is one more
}

static void finish_burst(struct connection* each) {
    uint64_t now = now_ns();
    --busy;
    enum phase phase = shared->phase;
    if (phase == MEASURING) atomic_fetch_add(&shared->latencies[bucket_of(now - each->begun)], 1);
    if (phase != OPENING) atomic_fetch_add(&shared->requests, options.depth);
    if (!goes_on(each)) return;
    if (options.mode == CONNECT) {
        uint64_t begun = now_ns();
        reconnect(each);
        begin_burst(each);
        each->begun = begun;  // making the connection is a part of it
    } else {
        begin_burst(each);
    }
}

static void receive(struct connection* each) {
    static char bytes[2 * burst_limit];
    ssize_t got = recv(each->fd, bytes, sizeof bytes, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) return lose(each, got ? strerror(errno) : "closed by the server");
    struct text expected = burst_to_come(each->id, each->bursts);
    size_t size = (size_t)got;
    if (size > expected.size - each->received || !same(bytes, expected, each->received, size)) {
        ++shared->wrong;
        return lose(each, "wrong bytes");
    }
    each->received += size;
    if (each->received == expected.size) finish_burst(each);
}

// Handles what is ready; false when nothing was for as long as anybody is patient.
static bool turn(int timeout_ms) {
    struct epoll_event events[1024];
    int ready = epoll_wait(epoll, events, 1024, timeout_ms);
    for (int i = 0; i < ready; ++i) {
        struct connection* each = events[i].data.ptr;
        if (each->fd >= 0 && each->writing && events[i].events & EPOLLOUT) send_rest(each);
        if (each->fd >= 0 && events[i].events & ~(unsigned)EPOLLOUT) receive(each);
    }
    return ready != 0;
}

static void work_until_answered(void) {
    while (busy > 0) {
        if (turn(patience_ms)) continue;
        errno = ETIMEDOUT;
        give_up("waiting for an answer");
    }
}

// A child's life ----------------------------------------------------------------------------------

// A few at a time: a listener whose queue is full drops the newcomer, and the kernel tries again
// after a whole second.
static void open_connections(long first) {
    for (long i = 0; i < count; ++i) {
        connections[i] = (struct connection){.fd = dial(), .id = (uint64_t)(first + i)};
        watch(&connections[i], EPOLL_CTL_ADD);
        begin_burst(&connections[i]);
        if (busy >= opening_at_once) work_until_answered();
    }
    work_until_answered();
}

static void await_phase(enum phase phase) {
    while (shared->phase < phase) usleep(200);
}

static void serve_time(void) {
    for (long i = 0; i < count; ++i)
        if (connections[i].fd >= 0) begin_burst(&connections[i]);
    uint64_t last = now_ns();
    while (busy > 0 && (shared->phase != ENDING || quota < LONG_MAX)) {
        if (turn(100)) last = now_ns();
        if (now_ns() - last < patience_ms * 1000000ull) continue;
        errno = ETIMEDOUT;
        give_up("waiting for an answer");
    }
    if (busy == 0 && quota == LONG_MAX && shared->phase != ENDING) exit(1);  // all were lost
    work_until_answered();
}

static int live(long first) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    connections = calloc((size_t)count, sizeof *connections);
    if (epoll < 0 || !connections) give_up("starting");
    open_connections(first);
    ++shared->ready;
    await_phase(WARMING_UP);
    if (options.mode != IDLE) serve_time();
    ++shared->finished;
    await_phase(ENDING);
    while (turn(0)) {
    }  // what comes now is an error: bytes nobody asked for, or a closed connection
    return 0;
}

// The parent --------------------------------------------------------------------------------------

// The processor time of all the server's threads, in ns.
static double server_time(void) {
    if (!options.server_pid) return 0;
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", options.server_pid);
    DIR* tasks = opendir(path);
    if (!tasks) give_up("the server's processor time");
    double sum = 0, time;
    for (struct dirent* task; (task = readdir(tasks));) {
        char name[512];
        snprintf(name, sizeof name, "%s/%s/schedstat", path, task->d_name);
        FILE* file = task->d_name[0] == '.' ? NULL : fopen(name, "r");
        if (file && fscanf(file, "%lf", &time) == 1) sum += time;
        if (file) fclose(file);
    }
    closedir(tasks);
    return sum;
}

static double children_time(const pid_t* children) {
    double sum = 0, time;
    for (long i = 0; i < options.processes; ++i) {
        char name[64];
        snprintf(name, sizeof name, "/proc/%d/schedstat", (int)children[i]);
        FILE* file = fopen(name, "r");
        if (file && fscanf(file, "%lf", &time) == 1) sum += time;
        if (file) fclose(file);
    }
    return sum;
}

static bool child_failed(int flags) {
    int status;
    return waitpid(-1, &status, flags) > 0 && !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void await_children(_Atomic long* number) {
    while (*number < options.processes) {
        if (child_failed(WNOHANG)) exit(1);
        usleep(500);
    }
}

static void rest(double seconds) {
    uint64_t end = now_ns() + (uint64_t)(seconds * 1e9);
    while (now_ns() < end) {
        if (child_failed(WNOHANG)) exit(1);
        uint64_t left = end - now_ns();
        usleep(left > 100000000 ? 100000 : (useconds_t)(left / 1000 + 1));
    }
}

struct moment {
    double time, server, children;
    long requests;
};

static struct moment this_moment(const pid_t* children) {
    return (struct moment){(double)now_ns(), server_time(), children_time(children),
                           shared->requests};
}

static void print_run(struct moment start, struct moment end) {
    double elapsed = end.time - start.time;
    long requests = end.requests - start.requests;
    printf("{\"requests\": %ld, \"seconds\": %.4f, \"requests_per_second\": %.1f, "
           "\"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, ",
           requests, elapsed * 1e-9, (double)requests / elapsed * 1e9, latency_us(0.5),
           latency_us(0.99), latency_us(0.999));
    if (options.server_pid && requests)
        printf("\"server_ns_per_request\": %.1f, \"server_share\": %.4f, ",
               (end.server - start.server) / (double)requests,
               (end.server - start.server) / elapsed);
    printf("\"load_share\": %.4f, \"wrong\": %ld, \"failed\": %ld}\n",
           (end.children - start.children) / elapsed, (long)shared->wrong, (long)shared->failed);
    fflush(stdout);
}

static void wait_for_line(void) {
    for (int c = 0; c != EOF && c != '\n';) c = getchar();
}

// For so many requests, or for so long.
static void measure(const pid_t* children) {
    struct moment start, end;
    if (options.requests) {
        start = this_moment(children);
        shared->phase = MEASURING;
        await_children(&shared->finished);
        end = this_moment(children);
    } else {
        shared->phase = WARMING_UP;
        rest(options.warm_up);
        start = this_moment(children);
        shared->phase = MEASURING;
        rest(options.seconds);
        end = this_moment(children);
    }
    if (end.requests == start.requests) complain("the server", "answered nothing while measured");
    print_run(start, end);
}

static void conduct(const pid_t* children) {
    await_children(&shared->ready);
    if (options.wait) {
        printf("ready\n");
        fflush(stdout);
        wait_for_line();
    }
    if (options.mode != IDLE) measure(children);
    while (options.wait && getchar() != EOF) {}
    shared->phase = ENDING;
    for (long i = 0; i < options.processes; ++i)
        if (child_failed(0)) exit(1);
}

// Asks once, to know what every answer of HTTP has to be like.
static void learn_reply(void) {
    get_burst = (sizeof get - 1) * (size_t)options.depth;
    for (long i = 0; i < options.depth; ++i)
        memcpy(gets + (size_t)i * (sizeof get - 1), get, sizeof get - 1);
    int fd = dial();
    if (send(fd, get, sizeof get - 1, MSG_NOSIGNAL) != sizeof get - 1) give_up("GET");
    size_t size = 0, whole = sizeof reply - 1;
    while (size < whole) {
        struct pollfd readable = {.fd = fd, .events = POLLIN};
        ssize_t got = poll(&readable, 1, patience_ms) == 1
                          ? recv(fd, reply + size, sizeof reply - 1 - size, 0)
                          : 0;
        if (got <= 0) break;
        reply[size += (size_t)got] = 0;
        const char* end = strstr(reply, "\r\n\r\n");
        const char* length = strcasestr(reply, "\r\nContent-Length: ");
        if (end && length && length < end)
            whole = (size_t)(end + 4 - reply) + strtoul(length + 18, NULL, 10);
    }
    close(fd);
    const char* date = strcasestr(reply, "\r\nDate: ");
    if (size != whole || strncmp(reply, "HTTP/1.1 200 ", 13) != 0) {
        fprintf(stderr, "copse-bench-load: GET / was not answered by HTTP/1.1 200: %.60s\n", reply);
        exit(1);
    }
    date_at = date ? (size_t)(date + 8 - reply) : 0;
    reply_size = size;
    if (reply_size * (size_t)options.depth > burst_limit) {
        fprintf(stderr, "copse-bench-load: answers of %zu bytes are too long\n", reply_size);
        exit(1);
    }
    for (long i = 0; i < options.depth; ++i)
        memcpy(replies + (size_t)i * reply_size, reply, reply_size);
}

static void misuse(void) {
    fputs(usage, stderr);
    exit(2);
}

static enum mode mode_named(const char* name) {
    static const char* const names[] = {"echo", "http", "connect", "idle"};
    for (int i = 0; i < 4; ++i)
        if (strcmp(name, names[i]) == 0) return (enum mode)i;
    misuse();
    return ECHO;
}

static void read_options(int words, char** word) {
    static const struct option known[] = {
        {"port", 1, 0, 'p'},       {"mode", 1, 0, 'm'},     {"connections", 1, 0, 'c'},
        {"size", 1, 0, 's'},       {"depth", 1, 0, 'd'},    {"seconds", 1, 0, 't'},
        {"warm-up", 1, 0, 'w'},    {"requests", 1, 0, 'r'}, {"processes", 1, 0, 'n'},
        {"server-pid", 1, 0, 'S'}, {"wait", 0, 0, 'W'},     {0, 0, 0, 0}};
    for (int found; (found = getopt_long(words, word, "", known, NULL)) != -1;) {
        switch (found) {
        case 'p': options.port = atoi(optarg); break;
        case 'm': options.mode = mode_named(optarg); break;
        case 'c': options.connections = atol(optarg); break;
        case 's': options.size = atol(optarg); break;
        case 'd': options.depth = atol(optarg); break;
        case 't': options.seconds = atof(optarg); break;
        case 'w': options.warm_up = atof(optarg); break;
        case 'r': options.requests = atol(optarg); break;
        case 'n': options.processes = atol(optarg); break;
        case 'S': options.server_pid = atoi(optarg); break;
        case 'W': options.wait = true; break;
        default: misuse();
        }
    }
    if (options.mode == IDLE) options.wait = true;
    long per_burst = options.mode == HTTP ? (long)sizeof get - 1 : options.size;
    if (optind < words || options.port <= 0 || options.connections < 1 || options.size < 1 ||
        options.depth < 1 || options.processes < 1 || options.processes > 64 ||
        options.processes > options.connections || per_burst * options.depth > burst_limit)
        misuse();
}

int main(int words, char** word) {
    read_options(words, word);
    struct rlimit descriptors;
    getrlimit(RLIMIT_NOFILE, &descriptors);
    descriptors.rlim_cur = descriptors.rlim_max;
    setrlimit(RLIMIT_NOFILE, &descriptors);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) give_up("mmap");
    make_letters();
    if (options.mode == HTTP) learn_reply();
    quota = options.requests ? options.requests / options.depth / options.connections : LONG_MAX;
    if (quota < 1) misuse();

    pid_t children[64];
    for (long i = 0; i < options.processes; ++i) {
        long first = options.connections * i / options.processes;
        count = options.connections * (i + 1) / options.processes - first;
        children[i] = fork();
        if (children[i] < 0) give_up("fork");
        if (children[i] == 0) _exit(live(first));
    }
    conduct(children);
    bool good = !shared->wrong && !shared->failed && (options.mode == IDLE || shared->requests > 0);
    return good ? 0 : 1;
}

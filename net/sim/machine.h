// Machine: a host of the world: a system table of its own, and behind it clock, memory, descriptors.
//
// Its program runs on a Strand and leaves it only in poller_wait(): then others have their turn. It
// has a processor to itself: its clock advances by what it does, and waits for nobody else's.
//
// Invariants:
//  - Every entry of the table passes through begin(), which counts it, folds it into the trace and
//    may make it fail.
//  - A descriptor belongs to one endpoint, an endpoint to one machine.
#pragma once

#include "net/sim/endpoint.h"
#include "runtime/hosting.h"
#include "runtime/system.h"

#include <copse/sim.h>

namespace copse::sim::detail {

class Simulation;

// The calls of the table that may fail. In the order of their names in calls.cpp.
enum class Call : uint8_t {
    allocate, map, guard, poller_open, poller_add, poller_remove, poller_wait, open_socket,
    open_pair, adopt, close, bind, listen, accept, connect, shutdown, get_peer_name,
    get_socket_name, get_option, set_option, receive, send, unlink, look_up,
};
constexpr int calls = int(Call::look_up) + 1;
extern const char* const call_names[calls];

struct Program {
    Task task;
    Launch launch;  // null: a main()
    bool awaited;
};

// A bound path of this machine's file system.
struct Path {
    char text[sizeof(sockaddr_un::sun_path) + 1];
    socklen_t size;
    Endpoint* owner;  // null: a name left behind
};

// A port that the last connection of it still keeps from being bound.
struct Quiet {
    int port;
    int64_t until;
};

struct Link {
    bool known;
    bool cut;
    int64_t least, most;  // latency
    uint64_t bandwidth;   // bytes a second; 0: no limit
    int64_t free_at;
};

struct Machine : System {
    Machine(Simulation&, uint32_t number, const char* called);
    ~Machine();

    static Machine& of(const System& system) {
        return const_cast<Machine&>(static_cast<const Machine&>(system));
    }

    Simulation& world;
    uint32_t number;
    char name_text[32];
    char address_text[16];
    uint32_t ip;  // host order

    // The program -------------------------------------------------------------------------------
    Strand strand;
    Stack stack;
    bool started = false;
    bool serves = false;     // has a program that nobody waits for
    bool abandoned = false;  // never to be entered again: its program would not stop
    Array<Program> programs;  // to be begun
    uint64_t steps = 0;
    uint64_t steps_then = 0;  // at the beginning of this virtual second
    int64_t second_began = 0;

    void start(const Program&);
    void live();  // on the strand
    bool begin_threads();
    void fill_in();          // the table
    void fill_in_descriptors();
    bool sheltered = false;  // while the world itself sets a program up, nothing fails
    static void live_on(void* machine) { static_cast<Machine*>(machine)->live(); }
    void step();
    void audit();
    uint32_t choose_ready(const Candidates&);
    const char* first_broken() const;

    // Time --------------------------------------------------------------------------------------
    int64_t clock = 0;              // the world's time that this machine has come to
    int64_t wake_at = INT64_MAX;    // when its wait is over
    int64_t paused_until = 0;
    int64_t offset = 0;
    int drift = 0;
    int64_t dispatch_cost;
    int64_t local_time() const { return clock + offset + clock / 1'000'000 * drift; }
    // When it will do something of itself; INT64_MAX: never.
    int64_t due() const;
    int wait(PollSet*, PollEvent* events, int capacity, int64_t timeout);
    int collect(PollSet*, PollEvent* events, int capacity);
    void touch(Endpoint&);
    void untouch(Endpoint&);

    // Calls -------------------------------------------------------------------------------------
    int begin(Call call, int64_t argument);  // 0, or the errno it is to fail with
    template <class T> T end(T result);
    uint64_t count[calls] = {};
    int (*fault)(void*, const char*, uint64_t) = nullptr;
    void* fault_context = nullptr;
    int exhaustion();

    // Memory ------------------------------------------------------------------------------------
    size_t held = 0, mapped = 0, memory_limit = 0;
    bool may_take(Call, size_t);

    // Descriptors -------------------------------------------------------------------------------
    static constexpr int first_descriptor = 3;
    Array<Endpoint*> descriptors;  // by number
    size_t open_count = 0;
    uint64_t endpoints_made = 0;
    size_t descriptor_most = 1024;
    Endpoint* first_touched = nullptr;
    Endpoint** last_touched = &first_touched;
    Array<Endpoint*> bound;        // with a port: listeners, and those that bound themselves
    Array<Path> paths;
    Array<Quiet> quiet;
    Array<Link> links;             // to the machine of that number

    Endpoint* at(int fd) const {
        return fd >= 0 && uint32_t(fd) < descriptors.size() ? descriptors[uint32_t(fd)] : nullptr;
    }
    int free_descriptor();
    int install(int fd, Endpoint&);
    Link& link_to(const Machine&);

    // calls.cpp
    int open_socket_here(int family, int type, int protocol);
    int open_pair_here(int family, int type, int out[2]);
    int close_here(int fd);
    int bind_here(Endpoint&, const sockaddr*, socklen_t);
    int listen_here(Endpoint&, int backlog);
    int accept_here(Endpoint&, sockaddr*, socklen_t*);
    int connect_here(Endpoint&, const sockaddr*, socklen_t);
    int shutdown_here(Endpoint&, int how);
    int get_option_here(Endpoint&, int level, int name, void*, socklen_t*);
    int set_option_here(Endpoint&, int level, int name, const void*, socklen_t);
    int look_up_here(const char* name, void* out, socklen_t* size);
    int bind_path(Endpoint&, const sockaddr*, socklen_t);
    int connect_path(Endpoint&, const sockaddr*, socklen_t);
    Path* find_path(const Name&);
    bool is_mine(const Name&) const;
    bool port_free(const Endpoint&, const Name&) const;
    int ephemeral_port(const Endpoint&);
    void let_rest(int port);
    void unbind(Endpoint&);

    // Chance ------------------------------------------------------------------------------------
    Stream schedule, order, trouble, library, bits, noise, ports;
};

}  // namespace copse::sim::detail

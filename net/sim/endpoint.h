// Endpoint: a socket as a kernel keeps it: what programs can observe of TCP and of UNIX streams.
//
// The bytes of one direction live with their sender, in a ring between `read` (what the peer's
// program has taken) and `written` (what ours has given). Between them `sent`, `arrived` and
// `acked` move as packets do, so windows, full buffers and late acknowledgements need nothing else.
// A packet carries a position, not bytes: a later one makes up for one that was lost, as TCP's do.
//
// Invariants:
//  - read <= arrived <= sent <= written, acked <= arrived.
//  - references counts the descriptor, the peer's link, the listener's queue and packets under way.
//  - Two endpoints let go of each other when neither has a descriptor.
#pragma once

#include "net/sim/chance.h"
#include "net/sim/store.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

namespace copse::sim::detail {

struct Machine;
struct Endpoint;
class Simulation;

// A socket's name: an address of any family.
struct Name {
    socklen_t size = 0;
    union {
        sockaddr any;
        sockaddr_in v4;
        sockaddr_in6 v6;
        sockaddr_un path;
        char bytes[sizeof(sockaddr_storage)];  // the longest that a kernel takes
    };
    Name() { memset(bytes, 0, sizeof bytes); }
    int port() const;
    void set_port(int port);
    bool is_any() const;  // 0.0.0.0 or ::, mapped or not
    // An IPv4-mapped address stands for the IPv4 address in it: as that; any other as it is.
    Name unmapped() const;
    Name mapped() const;  // and the way back
    // As a kernel copies it out: cut to the room there is, the size whole.
    void give(sockaddr* out, socklen_t* room) const;
};

// The set of descriptors that a loop polls.
struct PollSet {
    Machine* machine;
};

// What can be set of a socket. A connection that a listener accepts begins with the listener's.
struct Settings {
    int send_buffer = 0, receive_buffer = 0;
    bool send_buffer_set = false, receive_buffer_set = false;  // by the program
    bool keepalive = false, reuse_address = false, reuse_port = false, nodelay = false;
    bool v6_only = false, lingers = false;
    int linger_seconds = 0;
    int keep_idle = 7200, keep_interval = 75, keep_count = 9, user_timeout = 0;  // s, s, -, ms
    int defer_accept = 0, fast_open = 0, fast_open_connect = 0;
};

struct Endpoint : Settings {
    enum class State : uint8_t {
        fresh,
        listening,
        connecting,
        connected,
        dead,  // over, reset, refused or timed out; what has arrived can still be read
    };

    explicit Endpoint(Machine& of) : machine{&of} {}

    Machine* machine;
    Endpoint* peer = nullptr;
    int references = 0;
    Endpoint* next_made = nullptr;  // of all there are
    Endpoint** link = nullptr;
    int fd = -1;  // -1: no program has it
    State state = State::fresh;
    bool is_unix = false;
    bool bound = false;
    bool port_chosen = false;    // by the program: kept when a connection is over
    bool call_untold = false;    // how its connect() ended, no second connect() has asked yet
    int family = 0;
    Name local, remote;

    // Readiness.
    PollSet* poll_set = nullptr;
    uint64_t token = 0;
    bool touched = false;   // something changed since the poller last told
    uint8_t spurious = 0;   // what it will claim besides
    Endpoint* next_touched = nullptr;

    // What comes in.
    bool fin_received = false;
    bool receive_ended = false;  // shutdown() of our side
    int error = 0;               // told once
    bool timed_out = false;

    // What goes out.
    Bytes bytes;
    uint64_t written = 0, sent = 0, arrived = 0, read = 0, acked = 0;
    uint64_t window_edge = 0;    // the position up to which the peer has offered room
    bool send_ended = false;
    bool fin_sent = false;
    bool wants_room = false;     // a write was cut short: say when there is room
    int nudges = 0;              // events under way that will say there is room
    bool reset_sent = false;
    bool graceful = false;       // was closed by its program before the peer's end had come
    int64_t last_arrival = 0;    // packets of one direction do not overtake each other
    int64_t unheard_since = 0;   // the first packet that did not get through; 0: all do
    Stream chance{};

    // Of a listener.
    Endpoint* first_waiting = nullptr;  // connections to accept, through next_waiting
    Endpoint* next_waiting = nullptr;
    int waiting = 0, backlog = 0;
    Endpoint* listener = nullptr;       // of a connection nobody has accepted yet

    // Keepalive.
    int probes = 0;
    bool probing = false;

    uint64_t unread() const { return peer ? peer->arrived - peer->read : 0; }
    uint64_t room() const;
    bool readable() const;
    bool writable() const;
    bool hung_up() const;
    bool input_ended() const { return fin_received || receive_ended; }
    // Nothing comes in and nothing goes out any more.
    bool over() const;
};

// What is over leaves its port to others, unless its program has chosen it.
void leave_port(Endpoint&);
// The socket is fresh again: its descriptor has a new endpoint, which is returned. Packets under
// way and the other side keep the old one.
Endpoint& start_over(Simulation&, Endpoint&);

}  // namespace copse::sim::detail

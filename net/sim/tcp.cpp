// What becomes of connections and their bytes: TCP as its users see it, and UNIX streams.
#include "net/sim/simulation.h"

#include <errno.h>
#include <utility>

namespace copse::sim::detail {

namespace {

using State = Endpoint::State;

constexpr int64_t one_second = 1'000'000'000;
constexpr int64_t first_patience = 200'000'000;       // before a packet is sent again
constexpr int64_t most_patience = 120 * one_second;
constexpr int64_t give_up_after = 924 * one_second;   // what Linux's 15 retransmissions come to
constexpr uint8_t most_syn_retries = 6;               // 127 seconds in all

constexpr int unix_buffer = 212992;
constexpr int largest_segment = 1460;
constexpr uint64_t head_of_packet = 40;

// How large a connection's buffers are: a board's or a server's.
constexpr int buffer_sizes[] = {87040, 4608, 16384, 131072, 2'000'000};

}  // namespace

// Readiness ---------------------------------------------------------------------------------------

uint64_t Endpoint::room() const {
    uint64_t used = written - (is_unix ? read : acked), most = uint64_t(send_buffer);
    return used < most ? most - used : 0;
}

bool Endpoint::over() const {
    bool idle = state == State::fresh || state == State::dead;
    return idle || (input_ended() && send_ended);
}

// An end of both ways, and an error, make everything possible: a call would not wait.
bool Endpoint::readable() const {
    if (state == State::connecting) return false;
    if (state == State::listening && first_waiting) return true;
    return unread() || input_ended() || error || over();
}

bool Endpoint::writable() const {
    if (state == State::connecting) return false;
    if (error || over()) return true;
    if (state == State::listening) return false;
    uint64_t used = uint64_t(send_buffer) - room();
    if (is_unix) return used * 4 <= uint64_t(send_buffer);
    return send_ended || (room() >= used / 2 && room() > 0);
}

bool Endpoint::hung_up() const {
    return state != State::connecting && (input_ended() || error || over());
}

// Life --------------------------------------------------------------------------------------------

Endpoint& Simulation::make_endpoint(Machine& machine, int family) {
    auto& e = *::new (zeroed(sizeof(Endpoint))) Endpoint(machine);
    e.family = family;
    e.is_unix = family == AF_UNIX;
    e.local.any.sa_family = sa_family_t(family);
    e.local.size = family == AF_INET    ? sizeof(sockaddr_in)
                   : family == AF_INET6 ? sizeof(sockaddr_in6)
                                        : sizeof(sa_family_t);
    e.remote = e.local;
    e.chance = Chance::stream(8, machine.number, machine.endpoints_made++);
    constexpr uint32_t sizes = sizeof buffer_sizes / sizeof *buffer_sizes;
    e.send_buffer = e.is_unix ? unix_buffer : buffer_sizes[chance.one_of(e.chance, sizes)];
    e.receive_buffer = e.is_unix ? unix_buffer : buffer_sizes[chance.one_of(e.chance, sizes)];
    e.next_made = first_endpoint_;
    e.link = &first_endpoint_;
    if (e.next_made) e.next_made->link = &e.next_made;
    first_endpoint_ = &e;
    return e;
}

void Simulation::release(Endpoint& e) {
    if (--e.references) return;
    e.machine->unbind(e);
    *e.link = e.next_made;
    if (e.next_made) e.next_made->link = e.link;
    e.~Endpoint();
    free(&e);
}

void leave_port(Endpoint& e) {
    if (e.is_unix || !e.bound || e.port_chosen) return;
    e.machine->unbind(e);
    e.bound = false;
}

Endpoint& start_over(Simulation& world, Endpoint& old) {
    Machine& machine = *old.machine;
    Endpoint& e = world.make_endpoint(machine, old.family);
    static_cast<Settings&>(e) = old;
    machine.untouch(old);
    e.fd = std::exchange(old.fd, -1);
    e.poll_set = std::exchange(old.poll_set, nullptr);
    e.token = old.token;
    machine.descriptors[uint32_t(e.fd)] = &e;
    world.take(e);
    leave_port(old);
    e.local = old.local;
    if (old.bound) {
        e.bound = e.port_chosen = true;
        machine.unbind(old);
        machine.bound.push(&e);
    }
    machine.touch(e);
    world.part(old);
    world.release(old);
    return e;
}

// Two endpoints become one connection; or one, which called itself.
void Simulation::join(Endpoint& a, Endpoint& b) {
    for (auto [one, other] : {std::pair{&a, &b}, std::pair{&b, &a}}) {
        one->peer = other;
        take(*other);
        one->state = State::connected;
        one->window_edge = uint64_t(other->receive_buffer);
    }
}

// Lets go of each other once no program can ask either of them anything any more.
void Simulation::part(Endpoint& e) {
    Endpoint* peer = e.peer;
    if (!peer || e.fd >= 0 || peer->fd >= 0 || e.listener || peer->listener) return;
    bool at_work = e.state == State::connected && peer->state == State::connected &&
                   (e.arrived < e.written || (e.fin_sent && !peer->fin_received));
    if (at_work) return;
    e.peer = peer->peer = nullptr;
    release(*peer);
    release(e);
}

// Packets -----------------------------------------------------------------------------------------

// How long a packet that did not get through is waited for before it is sent again.
static int64_t patience(uint8_t attempt) {
    int64_t length = first_patience << (attempt < 10 ? attempt : 10);
    return length < most_patience ? length : most_patience;
}

void Simulation::transmit(Event::Kind kind, Endpoint& from, Endpoint& to, uint64_t position,
                          uint64_t bytes) {
    Link& link = from.machine->link_to(*to.machine);
    int64_t leaves = time();
    if (link.bandwidth) {
        if (link.free_at < leaves) link.free_at = leaves;
        uint64_t size = bytes + (1 + bytes / uint64_t(largest_segment)) * head_of_packet;
        link.free_at += int64_t(size * uint64_t(one_second) / link.bandwidth);
        leaves = link.free_at;
    }
    constexpr uint32_t steps_of_latency = 64;
    int64_t latency = link.least + (link.most - link.least) / steps_of_latency *
                                       chance.one_of(from.chance, steps_of_latency);
    int64_t arrives = leaves + latency;
    if (kind == Event::data || kind == Event::fin) {
        if (trouble(from.chance, faults.lost)) arrives += patience(0);
        if (trouble(from.chance, faults.reset)) {
            // Something in between has had enough of this connection.
            note(from.machine, "a connection is reset on its way");
            transmit(Event::reset, from, to, 0);
            transmit(Event::reset, to, from, 0);
        }
    }
    if (arrives < from.last_arrival) arrives = from.last_arrival;
    from.last_arrival = arrives;
    add({arrives, 0, kind, 0, &to, &from, position, to.read + uint64_t(from.receive_buffer)});
}

// Sends what the window has room for.
void Simulation::push(Endpoint& e) {
    if (e.is_unix || e.state != State::connected || !e.peer) return;
    while (e.sent < e.written && e.sent < e.window_edge) {
        uint64_t left = e.written - e.sent, room = e.window_edge - e.sent;
        uint64_t size = left < room ? left : room;
        // As large as fits, or a segment, or hardly anything.
        uint32_t cut = chance.one_of(e.chance, 4);
        if (cut == 1 && size > uint64_t(largest_segment)) size = uint64_t(largest_segment);
        if (cut == 2) size = 1 + chance.one_of(e.chance, uint32_t(size < 100 ? size : 100));
        e.sent += size;
        transmit(Event::data, e, *e.peer, e.sent, size);
    }
    if (e.send_ended && !e.fin_sent && e.sent == e.written) {
        e.fin_sent = true;
        transmit(Event::fin, e, *e.peer, e.written);
    }
}

// Tells a writer that was cut short of room, if there is enough to be worth it.
void Simulation::wake(Endpoint& e) {
    if (!e.wants_room || !e.writable()) return;
    e.wants_room = false;
    e.machine->touch(e);
}

// Both ends have come to both sides: the socket is of no state any more, and whoever ended first
// keeps its port from others for a while.
static void end_if_over(Endpoint& e) {
    if (e.state != State::connected || !e.peer) return;
    if (!e.fin_sent || !e.fin_received || !e.peer->fin_received) return;
    e.state = State::dead;
    if (e.graceful && e.fd >= 0) e.machine->let_rest(e.local.port());
    leave_port(e);
    e.machine->touch(e);
}

void Simulation::end_of_sending(Endpoint& e) {
    e.send_ended = true;
    e.graceful = !e.fin_received;
    push(e);
}

void Simulation::die(Endpoint& e, int error) {
    if (e.state == State::dead) return;
    e.state = State::dead;
    if (!e.error) e.error = error;
    leave_port(e);
    e.machine->touch(e);
    if (e.fd < 0) part(e);
}

void Simulation::reset_peer(Endpoint& e) {
    if (e.reset_sent || !e.peer) return;
    e.reset_sent = true;
    transmit(Event::reset, e, *e.peer, 0);
}

// The program has closed it: a connection ends in order, or, with input unread, in a reset that
// destroys what was still under way.
void Simulation::close(Endpoint& e) {
    if (e.state == State::listening) {
        while (Endpoint* child = e.first_waiting) {
            e.first_waiting = child->next_waiting;
            child->listener = nullptr;
            if (e.is_unix) {
                if (child->peer) child->peer->error = ECONNRESET;
                close_unix(*child);
            } else {
                reset_peer(*child);
                die(*child, 0);
                part(*child);
            }
            release(*child);
        }
        e.waiting = 0;
        e.state = State::dead;  // for who has called and is not in the queue yet
    }
    e.machine->unbind(e);
    if (e.is_unix) return close_unix(e);
    if (e.state == State::connecting) {
        if (e.peer) reset_peer(e);
        e.state = State::dead;
    } else if (e.state == State::connected) {
        if (e.unread() || (e.lingers && e.linger_seconds == 0)) {
            reset_peer(e);
            e.state = State::dead;
        } else if (!e.send_ended) {
            end_of_sending(e);
        }
        if (e.graceful && e.local.port()) e.machine->let_rest(e.local.port());
    }
    part(e);
}

void Simulation::close_unix(Endpoint& e) {
    for (Path& each : e.machine->paths) {
        if (each.owner != &e) continue;
        each.owner = nullptr;
        if (!each.text[0]) e.machine->paths.remove(uint32_t(&each - e.machine->paths.begin()));
        break;
    }
    if (e.peer && e.state == State::connected) {
        Endpoint& peer = *e.peer;
        if (e.unread()) peer.error = ECONNRESET;
        peer.fin_received = peer.send_ended = true;
        peer.machine->touch(peer);
        e.state = State::dead;
    }
    part(e);
}

// Connecting --------------------------------------------------------------------------------------

// The first packet has nobody to go to yet: it finds its listener when it arrives.
void Simulation::begin_connecting(Endpoint& e) {
    Machine* there = owner_of(e.remote, *e.machine);
    Link& link = e.machine->link_to(*there);
    int64_t latency = link.least + (link.most - link.least) / 64 * chance.one_of(e.chance, 64);
    e.last_arrival = time() + latency;
    add({e.last_arrival, 0, Event::syn, 0, nullptr, &e, 0, 0});
}

static bool same_name(const Name& a, const Name& b) {
    return a.size == b.size && !memcmp(a.bytes, b.bytes, a.size);
}

Endpoint* Simulation::find_listener(Machine& machine, const Name& wanted) {
    Endpoint* general = nullptr;
    Name name = wanted.unmapped();
    for (Endpoint* each : machine.bound) {
        if (each->state != State::listening || each->local.port() != name.port()) continue;
        Name local = each->local.unmapped();
        bool alike = local.any.sa_family == name.any.sa_family;
        if (local.is_any()) {
            bool fits = alike || (local.any.sa_family == AF_INET6 && !each->v6_only);
            if (fits && !general) general = each;
        } else if (alike && (local.any.sa_family == AF_INET
                                 ? local.v4.sin_addr.s_addr == name.v4.sin_addr.s_addr
                                 : !memcmp(&local.v6.sin6_addr, &name.v6.sin6_addr, 16))) {
            return each;
        }
    }
    return general;
}

void Simulation::retry_syn(const Event& event) {
    Endpoint& e = *event.from;
    if (event.attempt >= most_syn_retries) return die(e, ETIMEDOUT);
    int64_t wait = one_second << event.attempt;
    add({time_ + wait, 0, Event::syn, uint8_t(event.attempt + 1), nullptr, &e, 0, 0});
}

void Simulation::arrive_syn(const Event& event) {
    Endpoint& e = *event.from;
    if (e.state != State::connecting) return;
    Machine& there = *owner_of(e.remote, *e.machine);
    if (e.machine->link_to(there).cut || there.link_to(*e.machine).cut) return retry_syn(event);
    Endpoint* listener = find_listener(there, e.remote);
    if (!listener && &there == e.machine && e.bound && same_name(e.local, e.remote)) {
        // Both sides of a simultaneous open, in one.
        join(e, e);
        return e.machine->touch(e);
    }
    if (!listener) {
        int64_t back = there.link_to(*e.machine).least;
        return add({time_ + back, 0, Event::reset, 0, &e, nullptr, 0, 0});
    }
    // A full queue drops the packet, and the other side tries again.
    if (listener->waiting > listener->backlog) return retry_syn(event);
    Endpoint& child = make_endpoint(there, listener->family);
    bool is_v6 = listener->family == AF_INET6;
    child.local = is_v6 ? e.remote.mapped() : e.remote.unmapped();
    child.remote = is_v6 ? e.local.mapped() : e.local.unmapped();
    // Buffers that nobody has set are of the size that was drawn for each connection.
    int send_buffer = child.send_buffer, receive_buffer = child.receive_buffer;
    static_cast<Settings&>(child) = *listener;
    if (!listener->send_buffer_set) child.send_buffer = send_buffer;
    if (!listener->receive_buffer_set) child.receive_buffer = receive_buffer;
    child.fast_open = child.defer_accept = 0;  // those are of listeners
    join(e, child);
    e.state = State::connecting;
    child.listener = listener;
    take(*listener);  // until it is confirmed
    transmit(Event::syn_ack, child, e, 0);
}

void Simulation::arrive_syn_ack(const Event& event) {
    Endpoint& e = *event.to;
    if (e.state != State::connecting) return reset_peer(e);
    e.state = State::connected;
    transmit(Event::confirm, e, *event.from, 0);
    e.machine->touch(e);
    if (e.keepalive) start_probing(e);
    push(e);
}

void Simulation::arrive_confirm(const Event& event) {
    Endpoint& child = *event.to;
    Endpoint* listener = child.listener;
    if (!listener) return;
    if (listener->state != State::listening) {
        child.listener = nullptr;
        reset_peer(child);
        die(child, 0);
    } else {
        Endpoint** last = &listener->first_waiting;
        while (*last) last = &(*last)->next_waiting;
        *last = &child;
        child.next_waiting = nullptr;
        ++listener->waiting;
        take(child);
        listener->machine->touch(*listener);
    }
    release(*listener);
    part(child);
}

// Bytes -------------------------------------------------------------------------------------------

ssize_t Simulation::send(Endpoint& e, const iovec* pieces, int count) {
    if (e.error && !e.is_unix) {
        int error = e.error;
        e.error = 0;
        return -error;
    }
    if (e.is_unix && !e.peer) return -ENOTCONN;
    if (e.state == State::connecting) {
        e.wants_room = true;
        return -EAGAIN;
    }
    if (e.state != State::connected || e.send_ended) return -EPIPE;
    uint64_t room = e.room(), offered = 0;
    for (int i = 0; i < count; ++i) offered += pieces[i].iov_len;
    if (offered == 0) return 0;
    if (room && trouble(e.machine->trouble, faults.short_write)) {
        room = chance.one_of(e.machine->trouble, uint32_t(room < 4096 ? room : 4096));
        ++e.nudges;
        add({time() + 1000, 0, Event::nudge, 0, &e, nullptr, 0, 0});
    }
    if (room < offered) e.wants_room = true;
    if (room == 0) return -EAGAIN;
    uint64_t begin = e.written;
    for (int i = 0; i < count && e.written - begin < room; ++i) {
        uint64_t left = room - (e.written - begin);
        size_t size = pieces[i].iov_len < left ? pieces[i].iov_len : size_t(left);
        e.bytes.write(e.read, e.written, static_cast<const char*>(pieces[i].iov_base), size);
        e.written += size;
    }
    fold(begin, e.written);
    if (e.is_unix) {
        e.sent = e.arrived = e.written;
        e.peer->machine->touch(*e.peer);
    } else {
        push(e);
    }
    return ssize_t(e.written - begin);
}

ssize_t Simulation::receive(Endpoint& e, char* out, size_t size) {
    if (e.state == State::listening) return e.is_unix ? -EINVAL : -ENOTCONN;
    if (e.state == State::fresh && e.is_unix) return -EINVAL;
    if (uint64_t there = e.unread()) {
        Endpoint& from = *e.peer;
        size_t count = there < size ? size_t(there) : size;
        from.bytes.read(from.read, out, count);
        from.read += count;
        if (from.read == from.written) from.bytes.drop();
        if (from.is_unix) wake(from);
        else if (from.sent == from.window_edge && e.state == State::connected &&
                 from.state == State::connected)
            transmit(Event::ack, e, from, from.arrived);  // the window has moved
        return ssize_t(count);
    }
    // Once its input has ended in order, TCP speaks of no error that came later.
    if (e.fin_received && !e.is_unix) return 0;
    if (e.error) {
        int error = e.error;
        e.error = 0;
        return -error;
    }
    if (e.input_ended() || e.state == State::dead) return 0;
    return e.state == State::fresh ? -ENOTCONN : -EAGAIN;
}

// Whether a packet cannot get through, and what is done about it: it is sent again, or the sender
// has lost patience for good.
bool Simulation::lost_for_good(Endpoint& from) {
    if (!from.unheard_since) from.unheard_since = time_;
    int64_t limit = from.user_timeout ? from.user_timeout * int64_t{1'000'000} : give_up_after;
    return time_ - from.unheard_since >= limit;
}

// In a network a reset may be there before bytes that were sent before it, which are lost then; on
// a machine's way to itself nothing overtakes anything.
static bool overtaken_by_reset(const Endpoint& sender, const Endpoint& receiver) {
    return sender.state == State::dead && sender.reset_sent && sender.machine != receiver.machine;
}

void Simulation::arrive_data(const Event& event) {
    Endpoint& sender = *event.from;
    Endpoint& receiver = *event.to;
    if (overtaken_by_reset(sender, receiver) || receiver.state != State::connected) return;
    // Who has shut down both ways takes nothing in any more, and resets who sends all the same.
    if (receiver.receive_ended && receiver.send_ended) {
        reset_peer(receiver);
        return die(receiver, ECONNRESET);
    }
    if (event.position > sender.arrived) sender.arrived = event.position;
    sender.unheard_since = 0;
    // Nobody will ever read it: who sent it is told.
    if (receiver.fd < 0 && !receiver.listener) {
        reset_peer(receiver);
        receiver.state = State::dead;
        return part(receiver);
    }
    receiver.machine->touch(receiver);
    transmit(Event::ack, receiver, sender, sender.arrived);
}

void Simulation::arrive_fin(const Event& event) {
    Endpoint& sender = *event.from;
    Endpoint& receiver = *event.to;
    if (overtaken_by_reset(sender, receiver) || receiver.state != State::connected) return;
    bool had_all = sender.arrived == sender.written;
    if (!had_all) arrive_data(event);
    if (receiver.state != State::connected) return;
    receiver.fin_received = true;
    receiver.machine->touch(receiver);
    transmit(Event::ack, receiver, sender, sender.arrived);
    end_if_over(receiver);
    part(receiver);
}

void Simulation::arrive_ack(const Event& event) {
    Endpoint& e = *event.to;
    if (event.position > e.acked) e.acked = event.position;
    if (event.edge > e.window_edge) e.window_edge = event.edge;
    if (e.state != State::connected) return;
    wake(e);
    push(e);
    end_if_over(e);
    part(e);
}

void Simulation::arrive_reset(Endpoint& e) {
    if (e.state == State::dead || e.state == State::fresh || e.state == State::listening) return;
    if (e.state == State::connecting) return die(e, ECONNREFUSED);
    die(e, e.fin_received ? EPIPE : ECONNRESET);
}

// Keepalive ---------------------------------------------------------------------------------------

void Simulation::start_probing(Endpoint& e) {
    if (e.probing || e.is_unix || e.state != State::connected) return;
    e.probing = true;
    add({time() + e.keep_idle * one_second, 0, Event::probe, 0, &e, nullptr, 0, 0});
}

void Simulation::probe(Endpoint& e) {
    e.probing = false;
    if (!e.keepalive || e.state != State::connected || !e.peer || e.fd < 0) return;
    Machine &here = *e.machine, &there = *e.peer->machine;
    bool cut = here.link_to(there).cut || there.link_to(here).cut;
    e.probes = cut ? e.probes + 1 : 0;
    if (e.probes > e.keep_count) return die(e, ETIMEDOUT);
    e.probing = true;
    int wait = cut ? e.keep_interval : e.keep_idle;
    add({time_ + wait * one_second, 0, Event::probe, 0, &e, nullptr, 0, 0});
}

// What happens ------------------------------------------------------------------------------------

void Simulation::happen(const Event& event) {
    // A packet that meets a cut is sent again, later and later, until its sender gives up.
    bool travels = event.kind >= Event::syn_ack && event.kind <= Event::ack && event.from;
    if (travels && event.from->machine->link_to(*event.to->machine).cut) {
        Endpoint& from = *event.from;
        if (event.kind == Event::ack && from.state != State::connected) return;
        if (lost_for_good(from)) return die(from, ETIMEDOUT);
        Event again = event;
        again.time = time_ + patience(event.attempt);
        if (again.attempt < 20) ++again.attempt;
        return add(again);
    }
    switch (event.kind) {
    case Event::syn: return arrive_syn(event);
    case Event::syn_ack: return arrive_syn_ack(event);
    case Event::confirm: return arrive_confirm(event);
    case Event::data: return arrive_data(event);
    case Event::fin: return arrive_fin(event);
    case Event::ack: return arrive_ack(event);
    case Event::reset: return arrive_reset(*event.to);
    case Event::probe: return probe(*event.to);
    case Event::nudge:
        --event.to->nudges;
        event.to->wants_room = true;
        return wake(*event.to);
    default: return happen_elsewhere(event);
    }
}

}  // namespace copse::sim::detail

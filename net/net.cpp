#include "net/net.h"

#include "net/socket.h"

#include <netinet/in.h>
#include <string.h>

namespace copse {

namespace {
// Sockets for which memory is taken at once.
constexpr size_t rooms_at_once = 32;
}  // namespace

Result<Net*> Net::obtain() {
    Result<Loop*> loop = Loop::obtain();
    if (!loop) return {nullptr, loop.error};
    if (LoopPart* part = loop.value->part) return {static_cast<Net*>(part), {}};
    void* room = loop.value->allocate(sizeof(Net));
    if (!room) return {nullptr, Error::no_memory};
    auto* net = ::new (room) Net(*loop.value);
    net->drain = drain_socket;
    net->end = end_with_loop;
    net->first_broken = first_broken_invariant;
    loop.value->part = net;
    return {net, {}};
}

Result<Address> Net::find(std::string_view host, uint16_t port) {
    Result<Address> literal = Address::parse(host, port);
    const System& system = loop_->system();
    char name[256];
    if (literal || !system.look_up || host.size() >= sizeof name) return literal;
    memcpy(name, host.data(), host.size());
    name[host.size()] = 0;
    Address found;
    socklen_t size = Address::capacity;
    if (system.look_up(system, name, found.raw(), &size)) return literal;
    found.setsize(size);
    // Both families have it in one place.
    reinterpret_cast<sockaddr_in*>(found.raw())->sin_port = htons(port);
    return {found, {}};
}

void* Net::take_room(size_t size) {
    void* room = size == sizeof(Socket) ? take_socket_room() : loop_->allocate(size);
    rooms_taken_ += room != nullptr;
    return room;
}

void* Net::take_socket_room() {
    if (void* room = free_rooms_) {
        free_rooms_ = *static_cast<void**>(room);
        return room;
    }
    if (!new_rooms_left_) {
        constexpr size_t size = sizeof(Slab) + rooms_at_once * sizeof(Socket);
        static_assert(sizeof(Slab) % alignof(Socket) == 0);
        void* memory = loop_->allocate(size);
        if (!memory) return nullptr;
        slabs_ = ::new (memory) Slab{slabs_, size};
        new_rooms_ = static_cast<char*>(memory) + sizeof(Slab);
        new_rooms_left_ = rooms_at_once;
    }
    void* room = new_rooms_;
    new_rooms_ += sizeof(Socket);
    --new_rooms_left_;
    return room;
}

// Once the loop has ended, streams of its may go on any OS threads, on several at once.
void Net::give_room(void* room, size_t size) {
    bool of_slab = size == sizeof(Socket);
    if (!of_slab) system_->release(*system_, room, size);
    if (ended()) {
        if (__atomic_sub_fetch(&rooms_taken_, 1, __ATOMIC_ACQ_REL) == 0) release();
        return;
    }
    if (of_slab) {
        *static_cast<void**>(room) = free_rooms_;
        free_rooms_ = room;
    }
    --rooms_taken_;
}

void Net::release() {
    const System& system = *system_;
    while (Slab* slab = slabs_) {
        slabs_ = slab->previous;
        system.release(system, slab, slab->size);
    }
    this->~Net();
    system.release(system, this, sizeof(Net));
}

void Net::add(Socket& socket) {
    socket.next_ = first_;
    if (first_) first_->previous_ = &socket;
    first_ = &socket;
}

void Net::remove(Socket& socket) {
    if (socket.next_) socket.next_->previous_ = socket.previous_;
    if (socket.previous_) socket.previous_->next_ = socket.next_;
    else first_ = socket.next_;
}

void Net::drain_socket(Drainable& item) { static_cast<Socket&>(item).drain_out(); }

// I8, I10: what is buffered is counted, and somebody will send it; who is closed holds nothing.
const char* Net::first_broken_invariant(LoopPart& part) {
    auto& net = static_cast<Net&>(part);
    size_t unsent = 0;
    for (Socket* socket = net.first_; socket; socket = socket->next_) {
        unsent += socket->out_.size();
        Watch* watch = socket->watch_;
        if (!socket->out_.empty() && !socket->queued && !(watch && watch->on_writable))
            return "bytes are buffered that nothing will send";
        if (socket->state_ == Socket::State::closed && (watch || socket->fd_ >= 0))
            return "a closed socket keeps its descriptor";
    }
    return unsent == net.loop_->unsent() ? nullptr : "unsent bytes are miscounted";
}

// The threads are gone; streams that live elsewhere stay behind, closed. The newest first: who leaves his
// listener as the last one, and so ends it, finds it in the list still.
void Net::end_with_loop(LoopPart& part) {
    auto& net = static_cast<Net&>(part);
    Loop& loop = *net.loop_;
    while (Socket* socket = net.first_) {
        net.remove(*socket);
        socket->end_with_loop();
    }
    net.pool_.close();
    loop.part = nullptr;
    net.loop_ = nullptr;
    if (!net.rooms_taken_) net.release();
}

}  // namespace copse

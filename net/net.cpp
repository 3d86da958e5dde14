#include "net/net.h"

#include "net/socket.h"

#include <netinet/in.h>
#include <string.h>

namespace copse {

Result<Net*> Net::obtain() {
    Result<Loop*> loop = Loop::obtain();
    if (!loop) return {nullptr, loop.error};
    if (LoopPart* part = loop.value->part) return {static_cast<Net*>(part), {}};
    void* room = loop.value->allocate(sizeof(Net));
    if (!room) return {nullptr, Error::no_memory};
    auto* net = ::new (room) Net(*loop.value);
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

void* Net::take_room() {
    if (void* room = free_rooms_) {
        free_rooms_ = *static_cast<void**>(room);
        return room;
    }
    return loop_->allocate(sizeof(Socket));
}

void Net::give_room(void* room) {
    *static_cast<void**>(room) = free_rooms_;
    free_rooms_ = room;
}

void Net::add(Socket& socket) {
    socket.next_socket = first_;
    socket.previous_socket = nullptr;
    if (first_) first_->previous_socket = &socket;
    first_ = &socket;
}

void Net::remove(Socket& socket) {
    if (socket.next_socket) socket.next_socket->previous_socket = socket.previous_socket;
    if (socket.previous_socket) socket.previous_socket->next_socket = socket.next_socket;
    else first_ = socket.next_socket;
}

// I8, I10: what is buffered is counted, and somebody will send it; who is closed holds nothing.
const char* Net::first_broken_invariant(LoopPart& part) {
    auto& net = static_cast<Net&>(part);
    size_t unsent = 0;
    for (Socket* socket = net.first_; socket; socket = socket->next_socket) {
        unsent += socket->out_.size();
        Watch* watch = socket->watch_;
        if (!socket->out_.empty() && !socket->queued && !(watch && watch->on_writable))
            return "bytes are buffered that nothing will send";
        if (socket->state_ == Socket::State::closed && (watch || socket->fd_ >= 0))
            return "a closed socket keeps its descriptor";
    }
    return unsent == net.loop_->unsent() ? nullptr : "unsent bytes are miscounted";
}

// The threads are gone; streams that live elsewhere stay behind, closed.
void Net::end_with_loop(LoopPart& part) {
    auto& net = static_cast<Net&>(part);
    Loop& loop = *net.loop_;
    while (Socket* socket = net.first_) {
        net.remove(*socket);
        socket->end_with_loop();
    }
    while (void* room = net.free_rooms_) {
        net.free_rooms_ = *static_cast<void**>(room);
        loop.release(room, sizeof(Socket));
    }
    loop.part = nullptr;
    net.~Net();
    loop.release(&net, sizeof(Net));
}

}  // namespace copse

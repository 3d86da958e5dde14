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

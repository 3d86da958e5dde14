#include "net/net.h"

#include "net/socket.h"

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

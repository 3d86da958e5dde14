// Net: what the sockets of one loop share.
#pragma once

#include "net/buffer.h"
#include "runtime/loop.h"

#include <copse/address.h>

namespace copse {

class Socket;

// Membership in the loop's list of sockets.
struct SocketLink {
    Socket* next_socket = nullptr;
    Socket* previous_socket = nullptr;
};

class Net : public LoopPart {
  public:
    // Of this OS thread's loop; made now if need be.
    static Result<Net*> obtain();

    Loop& loop() { return *loop_; }
    BufferPool& pool() { return pool_; }

    // What a host's name or literal address stands for, with a port; not_found.
    Result<Address> find(std::string_view host, uint16_t port);

    void* take_room();           // for a Socket; null: no memory
    void give_room(void* room);

    void add(Socket&);
    void remove(Socket&);

    // Threads in accept() that wait for a descriptor to be freed.
    WaitList starved;

    size_t lingering = 0;        // sockets that are closing

  private:
    explicit Net(Loop& loop) : loop_{&loop}, pool_{loop} {}
    static void end_with_loop(LoopPart&);
    static const char* first_broken_invariant(LoopPart&);

    Loop* loop_;
    BufferPool pool_;
    Socket* first_ = nullptr;
    void* free_rooms_ = nullptr;  // linked through their first word
};

}  // namespace copse

// Net: what the sockets of one loop share.
//
// Invariants:
//  - Every Socket lies in a room of its Net's and is in its list until the loop ends.
//  - It outlives the loop for as long as a Socket does, which a Stream somewhere still holds; and with
//    it the rooms of all others do. From then on its only change is the count of rooms, from any OS
//    thread.
#pragma once

#include "net/buffer.h"
#include "runtime/loop.h"

#include <copse/address.h>

namespace copse {

class Socket;

class Net : public LoopPart {
  public:
    // Of this OS thread's loop; made now if need be.
    static Result<Net*> obtain();

    Loop& loop() { return *loop_; }
    bool ended() const { return !loop_; }
    bool belongs_here() const { return !loop_ || loop_ == Loop::current(); }
    const System& system() const { return *system_; }
    BufferPool& pool() { return pool_; }

    // What a host's name or literal address stands for, with a port; not_found.
    Result<Address> find(std::string_view host, uint16_t port);

    // For a Socket, or one of a larger kind; null: no memory. The last one given back after the loop's
    // end takes the Net with it.
    void* take_room(size_t size);
    void give_room(void* room, size_t size);

    void add(Socket&);
    void remove(Socket&);

    // Threads in accept() that wait for a descriptor to be freed.
    WaitList starved;

    size_t lingering = 0;        // sockets that are closing

  private:
    explicit Net(Loop& loop) : loop_{&loop}, system_{&loop.system()}, pool_{loop} {}
    struct Slab {
        Slab* previous;
        size_t size;
    };
    void* take_socket_room();
    static void drain_socket(Drainable&);
    static void end_with_loop(LoopPart&);
    void release();
    static const char* first_broken_invariant(LoopPart&);

    Loop* loop_;  // null: it has ended
    const System* system_;
    BufferPool pool_;
    Socket* first_ = nullptr;
    size_t rooms_taken_ = 0;
    void* free_rooms_ = nullptr;  // that were given back, linked through their first word
    char* new_rooms_ = nullptr;   // of the newest slab, never taken yet
    size_t new_rooms_left_ = 0;
    Slab* slabs_ = nullptr;
};

}  // namespace copse

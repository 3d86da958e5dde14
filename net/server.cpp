// Server: a thread that accepts, and a thread for each connection.
#include <copse/server.h>

#include "net/socket.h"

#include <string.h>

namespace copse {

// Shared by the acceptor, the connections and the handles; freed when the last of them is gone.
struct ServerBlock {
    Loop* loop;
    const System* system;
    Listener listener;
    detail::HandlerType type;
    Duration timeout;
    size_t size;  // of the whole allocation
    Thread acceptor;
    size_t references = 0;
    uint64_t accepted = 0;
    bool handler_made = false;
    bool removed = false;
    char name[48] = {};
};

namespace {

// "<server>:handler_7" in a name's 31 bytes: what must be cut is cut off the server's.
using Name = Text<32>;
Name name_of_handler(const ServerBlock& server) {
    Text<32> tail;
    tail.add(":handler_").add(server.accepted);
    size_t room = 31 - tail.size();
    Name name;
    name.add(server.name, strnlen(server.name, room)).add(tail.c_str());
    return name;
}

// How long accepting rests when there is no memory for a connection's thread.
constexpr int64_t memory_rest = 100'000'000;

void serve(ServerBlock& server, Stream&& stream) {
    ++server.accepted;
    Socket::of(stream)->name_after_listener(uint32_t(server.accepted));
    if (server.timeout != never) stream.settimeouts(never, server.timeout, server.timeout);
    Name name = name_of_handler(server);
    void* handler = detail::handler_room(server);
    Error error = server.type.begin(server, handler, std::move(stream), name.c_str());
    if (!error) return;
    server.loop->report(server.loop->running_thread(), error.message());
    (void)sleep_for(Duration::nanoseconds(memory_rest));
}

void accept_connections(ServerBlock& server) {
    for (;;) {
        Result<Stream> stream = server.listener.accept();
        if (stream) {
            serve(server, std::move(*stream));
            continue;
        }
        bool expected = stream.error == Error::canceled || stream.error == Error::closed;
        if (!expected) server.loop->report(server.loop->running_thread(), stream.error.message());
        break;
    }
    // Canceled together with everybody else: nobody will accept here any more.
    if (!server.removed) (void)server.listener.close();
}

void release(ServerBlock& server) {
    const System& system = *server.system;
    size_t size = server.size;
    server.~ServerBlock();
    system.release(system, &server, size);
}

size_t room_offset(const detail::HandlerType& type) {
    size_t alignment = type.alignment > alignof(max_align_t) ? type.alignment : alignof(max_align_t);
    return (sizeof(ServerBlock) + alignment - 1) / alignment * alignment;
}

}  // namespace

namespace detail {

Result<ServerBlock*> make_server(Listener&& listener, const HandlerType& type, Duration timeout,
                                 const char* name) {
    Result<Net*> net = Net::obtain();
    if (!net) return {nullptr, net.error};
    Socket* socket = Socket::of(listener);
    if (Error error = socket ? socket->usable() : Error::closed) return {nullptr, error};
    Loop& loop = net.value->loop();
    size_t size = room_offset(type) + type.size + type.alignment;
    void* room = loop.allocate(size);
    if (!room) return {nullptr, Error::no_memory};
    auto* block = ::new (room) ServerBlock{&loop, &loop.system(), std::move(listener), type,
                                           timeout < Duration{} ? never : timeout, size, {}};
    Result<Address> address = block->listener.address();
    copy_name(block->name, name && *name ? name : address->format().c_str());
    Error error = socket->setname(block->name);
    if (!error) return {block, {}};
    release(*block);
    return {nullptr, error};
}

void* handler_room(ServerBlock& server) {
    uintptr_t room = uintptr_t(&server) + room_offset(server.type);
    size_t alignment = server.type.alignment;
    return reinterpret_cast<void*>((room + alignment - 1) & ~uintptr_t(alignment - 1));
}

Error start_server(ServerBlock& server) {
    server.handler_made = true;
    struct Acceptor {
        ServerReference server;
        void operator()() { accept_connections(*server.get()); }
    };
    Text<32> name;
    name.add(server.name, strnlen(server.name, 22)).add(":acceptor");
    Result<Thread> thread = addthread({.name = name.c_str()}, Acceptor{ServerReference{server}});
    server.acceptor = *thread;
    if (thread.error) (void)server.listener.close();
    return thread.error;
}

void hold_server(ServerBlock& server) { ++server.references; }

void drop_server(ServerBlock& server) {
    if (--server.references) return;
    if (server.handler_made) server.type.destroy(handler_room(server));
    release(server);
}

}  // namespace detail

Error Server::remove(bool keep_open) {
    ServerBlock* server = reference_.get();
    if (!server) return Error::destroyed;
    server->removed = true;
    (void)server->acceptor.cancel();
    return keep_open ? Error::none : server->listener.close();
}

Listener Server::listener() {
    ServerBlock* server = reference_.get();
    return server && server->removed ? std::move(server->listener) : Listener{};
}

const char* Server::name() const { return reference_.get() ? reference_.get()->name : ""; }

size_t Server::connections() const {
    return reference_.get() ? reference_.get()->listener.connections() : 0;
}

Result<Address> Server::address() const {
    if (!reference_.get()) return {{}, Error::destroyed};
    return reference_.get()->listener.address();
}

}  // namespace copse

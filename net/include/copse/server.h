// Server: a listener whose every connection gets a thread of its own.
#pragma once

#include <copse/socket.h>

namespace copse {

struct ServerBlock;

namespace detail {

// What the library must be told about a handler whose type only the template knows.
struct HandlerType {
    size_t size;
    size_t alignment;
    Error (*begin)(ServerBlock&, void* handler, Stream&&, const char* thread_name);
    void (*destroy)(void* handler);
};
COPSE_API Result<ServerBlock*> make_server(Listener&&, const HandlerType&, Duration timeout,
                                           const char* name);
COPSE_API void* handler_room(ServerBlock&);
COPSE_API Error start_server(ServerBlock&);
COPSE_API void hold_server(ServerBlock&);
COPSE_API void drop_server(ServerBlock&);

// A counted reference to a server's block.
class ServerReference {
  public:
    ServerReference() = default;
    explicit ServerReference(ServerBlock& block) : block_{&block} { hold_server(block); }
    ServerReference(const ServerReference& other) : block_{other.block_} {
        if (block_) hold_server(*block_);
    }
    ServerReference(ServerReference&& other) noexcept : block_{other.block_} {
        other.block_ = nullptr;
    }
    ServerReference& operator=(ServerReference other) noexcept {
        ServerBlock* mine = block_;
        block_ = other.block_;
        other.block_ = mine;
        return *this;
    }
    ~ServerReference() { if (block_) drop_server(*block_); }
    ServerBlock* get() const { return block_; }

  private:
    ServerBlock* block_ = nullptr;
};

}  // namespace detail

class Server;
template <class Handler>
Result<Server> addserver(Listener, Handler&&, Duration timeout = never, const char* name = nullptr);

// A handle, copyable. The server goes on when its handles are gone.
class Server {
  public:
    Server() = default;

    // Stops accepting; live handlers go on. Closes the listener, or leaves it open: then listener()
    // has it, and the kernel goes on queueing connections. Answers to copas.removeserver.
    COPSE_API Error remove(bool keep_open = false);
    // The listener of a removed server that was kept open; an empty one otherwise.
    COPSE_API Listener listener();

    COPSE_API const char* name() const;
    COPSE_API size_t connections() const;  // accepted and still open
    COPSE_API Result<Address> address() const;

  private:
    template <class H>
    friend Result<Server> addserver(Listener, H&&, Duration, const char*);
    explicit Server(ServerBlock& block) : reference_{block} {}
    detail::ServerReference reference_;
};

namespace detail {

// The body of a connection's thread. When the handler returns, the stream closes, and closing
// writes what was sent; when it throws, unwinding does the same.
template <class Handler> struct Connection {
    ServerReference server;
    Handler* handler;
    Stream stream;

    void operator()() { (*handler)(stream); }
};

template <class Handler>
Error begin_connection(ServerBlock& server, void* handler, Stream&& stream, const char* name) {
    return addthread({.name = name}, Connection<Handler>{ServerReference{server},
                                                         static_cast<Handler*>(handler),
                                                         std::move(stream)})
        .error;
}

}  // namespace detail

// Adds a server: for each connection a thread named "<server>:handler_<n>" runs handler(stream),
// with the timeout for its sends and receives; the stream is named "<server>:client_<n>". When the
// handler returns, what it sent is flushed and the stream closes. All connections share the one
// handler object. Does not park. no_memory; or what is wrong with the listener. Answers to
// copas.addserver.
template <class Handler>
Result<Server> addserver(Listener listener, Handler&& handler, Duration timeout,
                         const char* name) {
    using Stored = std::decay_t<Handler>;
    detail::HandlerType type{sizeof(Stored), alignof(Stored), detail::begin_connection<Stored>,
                             [](void* h) { static_cast<Stored*>(h)->~Stored(); }};
    Result<ServerBlock*> made = detail::make_server(std::move(listener), type, timeout, name);
    if (!made) return {{}, made.error};
    Server server{*made.value};
    ::new (detail::handler_room(*made.value)) Stored(std::forward<Handler>(handler));
    return {std::move(server), detail::start_server(*made.value)};
}

// The same on a port of every IPv4 address; or what bind() says.
template <class Handler>
Result<Server> addserver(uint16_t port, Handler&& handler, Duration timeout = never,
                         const char* name = nullptr) {
    Result<Listener> listener = bind("*", port);
    if (!listener) return {{}, listener.error};
    return addserver(std::move(*listener), std::forward<Handler>(handler), timeout, name);
}

}  // namespace copse

// Socket: what stands behind a Stream or a Listener: the descriptor, its watch and its buffers.
//
// A Stream holds one reference; every call that may park holds another while it runs, so another
// thread may close the stream meanwhile: whoever is parked is woken, finds it closed and leaves.
//
// Sending: bytes go to `out_`; a socket with bytes to write is queued with the loop, which drains
// it at the end of the turn with one vectored write. When the kernel takes no more, the watch queues
// it again as soon as it will. A deferred write's error is kept in `broken_`, ends sending for good,
// and is told once more to somebody who did not cause it.
//
// Closing: the stream lets go at once; a thread of the library's own then writes what is left and
// ends sending, reads the peer's unread rest meanwhile and after, both for a bounded time, and
// closes the descriptor: closing it with unread input would make the kernel reset the connection
// and destroy our last reply.
//
// Invariants:
//  - out_ never holds more than send_limit_ bytes (what send() was given beyond that is written
//    from the caller's memory).
//  - One thread at most is within receive, and one within a send that has parked.
//  - The descriptor is closed exactly once, after its watch is gone.
#pragma once

#include "net/buffer.h"
#include "net/net.h"

#include <copse/socket.h>

namespace copse {

// When a call must be over: read off the clock only if the call comes to park.
class CallDeadline {
  public:
    explicit CallDeadline(int64_t timeout) : timeout_{timeout} {}
    int64_t at(Loop& loop) {
        if (timeout_ == INT64_MAX) return INT64_MAX;
        if (at_ == unset) at_ = Duration::add(loop.now(), timeout_);
        return at_;
    }
    bool passed(Loop& loop) const { return at_ != unset && loop.now() >= at_; }

  private:
    static constexpr int64_t unset = -1;
    int64_t timeout_;
    int64_t at_ = unset;
};

// Marks that a thread is within a call, for as long as the scope lasts.
class Within {
  public:
    explicit Within(bool& flag) : flag_{flag} { flag_ = true; }
    ~Within() { flag_ = false; }
    Within(const Within&) = delete;
    Within& operator=(const Within&) = delete;

  private:
    bool& flag_;
};

class Socket : Drainable, public SocketLink {
  public:
    // Takes the descriptor over, whatever happens: on error it is closed. ready: what to believe of
    // it until the poller speaks.
    static Result<Socket*> adopt(int fd, uint32_t ready);
    // The same for a descriptor from outside; what is wrong with it is kept and returned by every
    // call. null: no memory.
    static Socket* wrap(int fd, bool listens);
    static Stream stream(Socket* socket) { return Stream{socket}; }
    static Listener listener(Socket* socket) { return Listener{socket}; }
    static Socket* of(const Stream& stream) { return stream.socket_; }
    static Socket* of(const Listener& listener) { return listener.socket_; }

    // A reference, let go of at the end of the scope.
    class Hold {
      public:
        explicit Hold(Socket& socket) : socket_{socket} { ++socket.references_; }
        ~Hold() { socket_.release(); }
        Hold(const Hold&) = delete;
        Hold& operator=(const Hold&) = delete;

      private:
        Socket& socket_;
    };
    void release();
    // What every call on it would be told.
    Error usable() const {
        if (refused_) [[unlikely]] return refused_;
        if (state_ != State::open) [[unlikely]] return Error::closed;
        return loop_->forked() ? Error::forked : Error::none;
    }
    // The Stream or Listener is gone: closes, and lets go of its reference.
    void abandon();

    // receive.cpp
    Result<std::string_view> receive(Pattern, std::string_view prefix, bool partial);
    Result<std::span<char>> receive_all(std::span<char>);
    Result<std::span<char>> receive_some(std::span<char>);

    // send.cpp
    Result<size_t> send(const std::string_view* pieces, size_t count);
    Error flush();
    Error shutdown(How);

    // closing.cpp
    Error close();
    Error reset();
    void end_with_loop();

    // listener.cpp
    Result<Stream> accept();
    size_t connections() const { return connections_; }

    // options.cpp
    static void set_nodelay(const System&, int fd);
    Error setoption(Option, int);
    Error setoption(Option, std::string_view);
    Result<int> getoption(Option);
    Result<Address> peer_name();
    Result<Address> own_name();

    int fd() const { return state_ == State::open ? fd_ : -1; }
    bool belongs_here() const { return !loop_ || loop_ == Loop::current(); }
    bool dirty() const { return state_ == State::open && !in_.empty(); }
    Stats stats() const;
    void settimeouts(Duration connect, Duration send, Duration receive);
    void setlimit(size_t receive_bytes, size_t send_bytes);
    void setname(const char* name) { copy_name(name_, name); }
    const char* name() const { return name_; }

    Loop& loop() { return *loop_; }
    Watch* watch() { return watch_; }
    void listen_with(const ListenOptions&, bool unlinks);
    Error finish_connecting(CallDeadline&);

    // Parks until the direction may be ready.
    Error wait_ready(Direction, const char* what, CallDeadline&);

  private:
    friend class Net;

    enum class State : uint8_t {
        open,
        closing,  // its user has let go; a thread of the library's writes and drains the rest
        closed,   // no descriptor any more
    };

    Socket(Loop& loop, Net& net, int fd);

    const System& system() const { return *system_; }
    // Whether a call that may park may begin.
    Error begin_call() {
        if (Error error = usable()) return error;
        return loop_->admit();
    }
    Error await_input(CallDeadline&);
    Error fill(CallDeadline&);
    size_t take_buffered(std::span<char>);
    ssize_t receive_into(char* out, size_t size);
    Error failed_receive(ssize_t result);

    Result<std::string_view> receive_available(size_t at_most);
    Result<size_t> send_through(const std::string_view* pieces, size_t count);
    ssize_t write(const std::string_view* pieces, size_t count, size_t skip);
    void drain_out();
    void took(size_t bytes);
    void break_off(Error);
    Error take_error();
    void end_sending();

    void let_go();
    bool settled(size_t most_to_discard) const;
    void discard_input(size_t& most);
    void linger();
    void close_descriptor();
    void lose_unsent();
    void destroy();

    Error make_way();
    Error await_connection();
    Error starve(int error);

    Loop* loop_;
    Net* net_;
    const System* system_;  // outlives the loop
    Watch* watch_ = nullptr;
    int fd_;
    int references_ = 1;
    State state_ = State::open;
    bool abandoned_ = false;      // by its Stream or Listener
    bool end_of_input_ = false;   // the peer will send no more
    bool receiving_ = false;      // a thread is within receive
    bool sending_ = false;        // a thread is within a send that may park
    bool broken_untold_ = false;  // broken_ has not been returned by any call
    bool send_ended_ = false;     // shutdown(send) was asked for
    bool end_sent_ = false;       // and done
    bool is_socket_ = true;
    bool listens_ = false;
    bool unlinks_ = false;        // a UNIX listener that made its path
    bool starving_told_ = false;  // the error handler knows that descriptors ran out
    Error input_error_;           // what receive says once the input has ended
    Error broken_;                // why nothing can be sent any more
    Error refused_;               // wrap() of what cannot be a stream

    Buffer in_;
    Buffer out_;
    size_t read_size_ = first_read_size;
    WaitList flushers_;
    int64_t connect_timeout_ = INT64_MAX;
    int64_t send_timeout_ = INT64_MAX;
    int64_t receive_timeout_ = INT64_MAX;
    size_t line_limit_ = default_line_limit;
    size_t all_limit_ = default_all_limit;
    size_t send_limit_ = default_send_limit;

    uint64_t received_ = 0;
    uint64_t sent_ = 0;
    int64_t made_ = 0;

    // Of a listener.
    size_t connections_ = 0;
    size_t most_connections_ = 0;
    uint32_t accepted_in_a_row_ = 0;
    WaitList room_;               // a thread in accept() that waits for a connection to end
    Socket* parent_ = nullptr;    // of an accepted stream: its listener

    char name_[32] = {};

  public:
    static constexpr size_t default_line_limit = 65536;
    static constexpr size_t default_all_limit = size_t(1) << 20;
    static constexpr size_t default_send_limit = 65536;
    static constexpr size_t first_read_size = 16384;
    static constexpr size_t largest_read_size = 65536;
};

}  // namespace copse

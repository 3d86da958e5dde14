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

class ListeningSocket;

class Socket : Drainable {
  public:
    enum class Kind : uint8_t { stream, listening };

    // Takes the descriptor over, whatever happens: on error it is closed. ready: what to believe of
    // it until the poller speaks.
    static Result<Socket*> adopt(int fd, uint32_t ready, Kind = Kind::stream);
    // The same for a descriptor from outside; what is wrong with it is kept and returned by every
    // call. null: no memory.
    static Socket* wrap(int fd, Kind);
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
        if (state_ != State::open) [[unlikely]] return unusable();
        return loop().forked() ? Error::forked : Error::none;
    }
    // The Stream or Listener is gone: closes, and lets go of its reference.
    void abandon();

    // receive.cpp
    Result<std::string_view> receive_available(size_t at_most);
    Result<std::string_view> receive(Pattern, std::string_view prefix, bool partial);
    Result<std::span<char>> receive_all(std::span<char>);
    Result<std::span<char>> receive_some(std::span<char>);

    // send.cpp
    Result<size_t> send(std::string_view data);
    Result<size_t> send(const std::string_view* pieces, size_t count);
    Error flush();
    Error shutdown(How);

    // closing.cpp
    Error close();
    Error reset();
    void end_with_loop();

    // options.cpp
    static void set_nodelay(const System&, int fd);
    Error setoption(Option, int);
    Error setoption(Option, std::string_view);
    Result<int> getoption(Option);
    Result<Address> peer_name();
    Result<Address> own_name();

    int fd() const { return state_ == State::open || state_ == State::refused ? fd_ : -1; }
    bool belongs_here() const { return net_->belongs_here(); }
    bool dirty() const { return state_ == State::open && !in_.empty(); }
    Stats stats() const;
    void settimeouts(Duration send, Duration receive);
    void setlimit(size_t receive_bytes, size_t send_bytes);
    // no_memory: it keeps the name it had.
    Error setname(const char* name);
    // "" for none.
    const char* name();
    // Names a connection "<its listener's name>:client_<number>", as the listener is called now; made
    // when somebody asks.
    void name_after_listener(uint32_t number);

    Loop& loop() const { return net_->loop(); }
    Error finish_connecting(CallDeadline&);

    // Parks until the direction may be ready.
    Error wait_ready(Direction, const char* what, CallDeadline&);

  protected:
    friend class Net;
    friend class ListeningSocket;

    enum class State : uint8_t {
        open,
        refused,  // wrap() of what cannot be used as it was meant to; broken_ says why
        closing,  // its user has let go; a thread of the library's writes and drains the rest
        closed,   // no descriptor any more
    };

    Socket(Net& net, int fd, Kind);
    static Result<Socket*> make(int fd, Kind);
    void refuse(Error reason);

    const System& system() const { return net_->system(); }
    struct Name {
        uint32_t holders;
        char text[32];
    };
    Name* make_name(const char* text);
    void drop_name();
    size_t size() const;  // of the whole object, whichever kind it is
    ListeningSocket* as_listening();

    Error unusable() const { return state_ == State::refused ? broken_ : Error::closed; }
    // Whether a call that may park may begin.
    Error begin_call() {
        if (state_ != State::open) [[unlikely]] return unusable();
        return loop().admit();
    }
    bool readable() const { return watch_->ready & PollEvent::readable; }
    bool writable() const { return watch_->ready & PollEvent::writable; }
    size_t limit_of(Pattern) const;
    Error await_input(CallDeadline&);
    Error fill(CallDeadline&);
    size_t take_buffered(std::span<char>);
    ssize_t receive_into(char* out, size_t size);
    Error failed_receive(ssize_t result);

    Error sendable();
    bool takes(size_t size);
    void buffer(std::string_view bytes);
    void queue_to_send(size_t more);
    Result<size_t> send_through(const std::string_view* pieces, size_t count);
    ssize_t write(const std::string_view* pieces, size_t count, size_t skip);
    void drain_out();
    void took(size_t bytes);
    void break_off(Error);
    Error take_error();
    void end_sending();

    void let_go();
    void wake_everybody();
    bool settled(size_t most_to_discard) const;
    void discard_input(size_t& most);
    void linger();
    void close_descriptor();
    void lose_unsent();
    void leave_parent();
    void destroy();

    // What an exchange of messages touches comes first. Ten thousand idle ones should be cheap, so
    // what only a listener has is in ListeningSocket, and a name is made when one is asked for.
    State state_ = State::open;
    Kind kind_;
    bool abandoned_ = false;      // by its Stream or Listener
    bool end_of_input_ = false;   // the peer will send no more
    bool receiving_ = false;      // a thread is within receive
    bool sending_ = false;        // a thread is within a send that may park
    bool send_ended_ = false;     // shutdown(send) was asked for
    int fd_;
    int references_ = 1;
    Net* net_;
    Watch* watch_ = nullptr;
    Buffer in_;
    Buffer out_;
    Error broken_;                // why nothing can be sent any more; of a refused one, why it is
    Error input_error_;           // what receive says once the input has ended
    bool broken_untold_ = false;  // broken_ has not been returned by any call
    bool end_sent_ = false;       // our end of the stream has been told to the peer
    bool is_socket_ = true;
    uint8_t read_doublings_ = 0;  // of the size of a read
    uint32_t number_ = 0;         // of a server's connection, as long as name_ is the listener's
    int64_t receive_timeout_ = INT64_MAX;
    int64_t send_timeout_ = INT64_MAX;
    size_t send_limit_ = default_send_limit;
    size_t receive_limit_ = 0;    // 0: each pattern's own
    uint64_t received_ = 0;
    uint64_t sent_ = 0;
    WaitList flushers_;
    int64_t made_;
    ListeningSocket* parent_ = nullptr;  // of an accepted stream
    Name* name_ = nullptr;
    Socket* next_ = nullptr;             // in the Net's list
    Socket* previous_ = nullptr;

  public:
    static constexpr size_t default_line_limit = 65536;
    static constexpr size_t default_all_limit = size_t(1) << 20;
    static constexpr size_t default_send_limit = 65536;
    static constexpr size_t first_read_size = 16384;
    static constexpr size_t largest_read_size = 65536;
};
static_assert(sizeof(void*) != 8 || sizeof(Socket) == 176);

// ListeningSocket: what a Listener has besides.
class ListeningSocket : public Socket {
  public:
    ListeningSocket(Net& net, int fd) : Socket{net, fd, Kind::listening} {}

    Result<Stream> accept();
    size_t connections() const { return connections_; }
    void listen_with(const ListenOptions&, bool unlinks);

    // A connection of its has been closed.
    void one_less();
    void wake_acceptors();
    bool unlinks() const { return unlinks_; }

  private:
    Error make_way();
    Error await_connection();
    Error starve(int error);

    size_t connections_ = 0;
    size_t most_connections_ = 0;
    uint32_t accepted_in_a_row_ = 0;
    bool unlinks_ = false;        // a UNIX listener that made its path
    bool starving_told_ = false;  // the error handler knows that descriptors ran out
    WaitList room_;               // threads in accept() that wait for a connection to end
};

inline size_t Socket::size() const {
    return kind_ == Kind::listening ? sizeof(ListeningSocket) : sizeof(Socket);
}
inline ListeningSocket* Socket::as_listening() {
    return kind_ == Kind::listening ? static_cast<ListeningSocket*>(this) : nullptr;
}

}  // namespace copse

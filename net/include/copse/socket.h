// Socket: a connection as a thread sees it. Stream, Listener, and how they come about.
//
// Every call that waits parks the calling thread only. A stream belongs to the loop of the OS
// thread it was made on. Two threads may use one at a time in opposite directions; a second one in
// the same direction is told `busy`. Errors are values, and keep what was obtained before them.
#pragma once

#include <copse/address.h>
#include <copse/loop.h>

#include <span>
#include <string_view>

namespace copse {

class Socket;

// What receive() waits for: "*l", a line without its LF and without any CR; "*a", everything until
// the peer closes; or a number of bytes. Anything else does not compile.
class Pattern {
  public:
    enum class Kind : uint8_t { line, all, count };

    template <class Literal>
        requires(std::is_array_v<Literal> && std::is_same_v<std::remove_extent_t<Literal>, const char>)
    consteval Pattern(Literal& text) : kind_{kind_of(text, sizeof text - 1)} {}

    template <class Number>
        requires(std::is_integral_v<Number> && !std::is_same_v<Number, bool> &&
                 !std::is_same_v<Number, char>)
    constexpr Pattern(Number n)
        : kind_{Kind::count}, valid_{n >= 0}, count_{n >= 0 ? size_t(n) : 0} {}

    constexpr Kind kind() const { return kind_; }
    constexpr size_t count() const { return count_; }
    constexpr bool valid() const { return valid_; }  // not a negative number

  private:
    static void a_pattern_is_line_all_or_a_number();  // not constexpr: stops the compiler
    static consteval Kind kind_of(const char* text, size_t size) {
        if (size == 2 && text[0] == '*' && text[1] == 'l') return Kind::line;
        if (size == 2 && text[0] == '*' && text[1] == 'a') return Kind::all;
        a_pattern_is_line_all_or_a_number();
        return Kind::line;
    }

    Kind kind_;
    bool valid_ = true;
    size_t count_ = 0;
};

enum class How : uint8_t { receive, send, both };

// LuaSocket's list. Values are 0 or 1 unless said otherwise.
enum class Option : uint8_t {
    keepalive,
    linger,            // seconds; -1: off. The kernel keeps the whole loop waiting in close() then
    reuseaddr,
    reuseport,
    tcp_nodelay,       // set already: copse gathers small writes itself
    tcp_keepidle,      // seconds
    tcp_keepcnt,       // probes
    tcp_keepintvl,     // seconds
    tcp_user_timeout,  // milliseconds that sent data may stay unacknowledged
    ipv6_v6only,
    recv_buffer_size,  // bytes
    send_buffer_size,  // bytes
    tcp_defer_accept,  // seconds
    tcp_fastopen,      // queue length
    tcp_fastopen_connect,
    error,             // get only: the pending errno, which this clears
    bindtodevice,      // a name, not a number: the interface whose packets it takes; "": any
};

struct Stats {
    uint64_t received = 0;  // bytes taken from the kernel
    uint64_t sent = 0;      // bytes taken by the kernel
    Duration age;
};

// A connected TCP or UNIX stream, or any other descriptor that can be read and written (a pipe, a
// terminal). Move-only; closes itself. An empty one answers `closed` to everything.
//
// Every parking call may return canceled and timeout (of settimeout, or of an enclosing Timeout
// scope), closed (the peer's end, or close() by another thread), busy, not_a_thread, forked, or
// what the kernel reports.
class Stream {
  public:
    Stream() = default;
    COPSE_API Stream(Stream&&) noexcept;
    COPSE_API Stream& operator=(Stream&&) noexcept;
    COPSE_API ~Stream();

    // Parks until the pattern is complete and returns a view into the stream's buffer, valid until
    // the next receive or the stream's end. The prefix is put in front and counts as received. On
    // error value keeps the partial: {partial, closed}, {partial, timeout}, {partial, oversized};
    // the stream stays usable after the last two. "*a" succeeds if any byte came in this call. A
    // count of 0 waits until there is something to read; one no larger than the prefix returns at
    // once. invalid: a negative count; no_memory. Answers to copas.receive.
    [[nodiscard]] COPSE_API Result<std::string_view> receive(Pattern = "*l",
                                                             std::string_view prefix = {});

    // The same, but returns {partial, timeout} as soon as any byte beyond the prefix is there.
    // Answers to copas.receivepartial.
    [[nodiscard]] COPSE_API Result<std::string_view> receivepartial(Pattern = "*l",
                                                                    std::string_view prefix = {});

    // Fills all of the span, straight from the kernel where it is large. On error the result is the
    // part that was filled.
    [[nodiscard]] COPSE_API Result<std::span<char>> receive(std::span<char> all_of_it);

    // At least one byte, at most the span's size; {empty, closed} at the end of the stream.
    [[nodiscard]] COPSE_API Result<std::span<char>> receive_some(std::span<char>);

    // Takes the bytes and returns how many: into the buffer that the end of the turn writes, or,
    // past the high-water mark, straight to the kernel, and then it parks until the peer takes
    // them. On error: how many were taken before it. An earlier deferred write's error is returned
    // here, once, and nothing is taken. Parks (and needs a thread) only past the mark.
    // Answers to copas.send.
    COPSE_API Result<size_t> send(std::string_view data);

    // Bytes i to j of data, counted from 1, or from the end if negative, as string.sub does.
    // Returns the index of the last byte taken: on error, of the last before it.
    COPSE_API Result<size_t> send(std::string_view data, ptrdiff_t i, ptrdiff_t j = -1);

    // Several pieces as one; returns how many bytes in all.
    COPSE_API Result<size_t> send(std::span<const std::string_view> pieces);

    // Parks until the kernel has taken every byte sent, or returns the error that prevents it. That
    // the peer has them it does not say. Answers to copas.flush.
    COPSE_API Error flush();

    // Wakes whoever is parked on the stream with `closed`; what was sent is still written, and
    // input is drained for a bounded time so that the reply survives, off the caller's back. Does
    // not park. Returns an earlier deferred write's error, once. Repeatable. Answers to copas.close.
    COPSE_API Error close();

    // Closes at once, by a reset: unsent bytes are dropped and the peer sees ECONNRESET.
    COPSE_API Error reset();

    // Half-close: sending ends after the bytes sent so far. Does not park. Once both directions are
    // shut Linux answers bytes that still come with a reset, and what the peer has not read by then is
    // lost: who wants his last words read shuts How::send, or closes.
    COPSE_API Error shutdown(How = How::both);

    // The longest that one call may take: per call, not per chunk. 0 polls; negative or never waits
    // for ever, and that is how a stream starts. The one for connecting is there for the reference's
    // sake: a stream is connected, and connect() is told its own. Answers to copas.settimeout(s).
    COPSE_API void settimeout(Duration);
    COPSE_API void settimeouts(Duration connect, Duration send, Duration receive);

    // How long a line or "*a" may be before it is `oversized` (64 KiB and 1 MiB until set), and how
    // many bytes send() buffers before it parks (64 KiB until set). 0 leaves it as it is.
    COPSE_API void setlimit(size_t receive_bytes, size_t send_bytes);

    // ENOPROTOOPT: this system has no such option, or its value is of the other kind.
    COPSE_API Error setoption(Option, int);
    COPSE_API Error setoption(Option, std::string_view);
    COPSE_API Result<int> getoption(Option);

    COPSE_API Result<Address> getpeername() const;
    COPSE_API Result<Address> getsockname() const;
    COPSE_API Stats getstats() const;
    COPSE_API bool dirty() const;  // the buffer holds bytes not yet received
    COPSE_API int getfd() const;   // -1 when closed
    explicit operator bool() const { return getfd() >= 0; }

    // Copied and cut at 31 bytes; null or "" makes it nameless. no_memory: it keeps the name it had.
    // A connection of a server's is named by the first who asks for its name.
    // Answers to copas.setsocketname and copas.getsocketname.
    COPSE_API Error setname(const char*);
    COPSE_API const char* name() const;  // valid until the stream's end or its next name

  private:
    friend class Socket;
    explicit Stream(Socket* socket) : socket_{socket} {}
    Socket* socket_ = nullptr;
};

struct ListenOptions {
    int backlog = 1024;
    bool reuseport = false;       // several listeners on one port, one per loop say
    size_t max_connections = 0;   // accepted and still open; 0: as many as descriptors allow
};

// A listening socket. Move-only; closes itself.
class Listener {
  public:
    Listener() = default;
    // Takes over a listening descriptor (an inherited one, say). What is wrong with it is returned
    // by accept().
    COPSE_API explicit Listener(int fd, ListenOptions = {});
    COPSE_API Listener(Listener&&) noexcept;
    COPSE_API Listener& operator=(Listener&&) noexcept;
    COPSE_API ~Listener();

    // Parks until a connection is there. Connections that failed before they were taken are
    // skipped. At the descriptor limit, or at max_connections, it waits calmly until one is freed;
    // the error handler hears of the former once. canceled, timeout, closed, busy, not_a_thread.
    COPSE_API Result<Stream> accept();

    COPSE_API Result<Address> address() const;  // with the port that was chosen for port 0
    COPSE_API Error close();                    // a thread parked in accept() gets `closed`
    COPSE_API size_t connections() const;       // accepted and still open
    COPSE_API Error setoption(Option, int);
    COPSE_API Error setoption(Option, std::string_view);
    COPSE_API Result<int> getoption(Option);
    COPSE_API int getfd() const;
    explicit operator bool() const { return getfd() >= 0; }

  private:
    friend class Socket;
    explicit Listener(Socket* socket) : socket_{socket} {}
    Socket* socket_ = nullptr;
};

// Listens. host: a literal address, "localhost", or "*" for any; port 0: the kernel picks one.
// not_found: not an address; or the kernel's reason ("address already in use", "permission
// denied"). Does not park. Answers to socket.bind.
COPSE_API Result<Listener> bind(std::string_view host, uint16_t port, ListenOptions = {});
COPSE_API Result<Listener> bind(const Address&, ListenOptions = {});

// Connects. Parks. timeout, canceled, not_found, not_a_thread, or the kernel's reason ("connection
// refused"). Answers to copas.connect.
COPSE_API Result<Stream> connect(std::string_view host, uint16_t port, Duration timeout = never);
COPSE_API Result<Stream> connect(const Address&, Duration timeout = never);

// Takes over a descriptor and makes it a stream; non-blocking from now on. What is wrong with it
// (a regular file cannot be polled) is returned by every call on the stream until it is closed. A
// listening socket goes through Listener. Answers to copas.wrap.
COPSE_API Stream wrap(int fd);

// Two streams connected to each other.
COPSE_API Result<std::pair<Stream, Stream>> pair();

// The reference's function forms: the same as the members.
inline Result<std::string_view> receive(Stream& s, Pattern p = "*l", std::string_view prefix = {}) {
    return s.receive(p, prefix);
}
inline Result<std::string_view> receivepartial(Stream& s, Pattern p = "*l",
                                               std::string_view prefix = {}) {
    return s.receivepartial(p, prefix);
}
inline Result<size_t> send(Stream& s, std::string_view data) { return s.send(data); }
inline Result<size_t> send(Stream& s, std::string_view data, ptrdiff_t i, ptrdiff_t j = -1) {
    return s.send(data, i, j);
}
inline Error flush(Stream& s) { return s.flush(); }
inline Error close(Stream& s) { return s.close(); }
inline void settimeout(Stream& s, Duration d) { s.settimeout(d); }
inline void settimeouts(Stream& s, Duration connect, Duration send, Duration receive) {
    s.settimeouts(connect, send, receive);
}
inline Error setsocketname(Stream& s, const char* name) { return s.setname(name); }
inline const char* getsocketname(const Stream& s) { return s.name(); }

}  // namespace copse

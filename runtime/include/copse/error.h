// Error: why something did not happen; false when it did.
//
// A value, never thrown. It is an errno of the kernel's or one of copse's own reasons, and it is
// compared by what it means: EPIPE, ECONNRESET, ECONNABORTED and the end of a stream are all
// `closed`, ETIMEDOUT is `timeout`, as in LuaSocket. code() still tells which one it was.
#pragma once

#include <copse/config.h>

#include <errno.h>

namespace copse {

class Error {
  public:
    constexpr Error() = default;

    // The error an errno value stands for; 0 is none.
    static constexpr Error from_errno(int code) { return Error{code}; }

    // The errno behind it, or copse's own number (10000 and up) where no system call failed; 0 for
    // none.
    constexpr int code() const { return code_; }

    // LuaSocket's and Copas's words where they have one, else strerror's. Never null; valid until
    // the next call on this OS thread.
    COPSE_API const char* message() const;

    constexpr explicit operator bool() const { return code_ != 0; }
    friend constexpr bool operator==(Error a, Error b) { return a.meaning() == b.meaning(); }

    static const Error none;
    static const Error closed;           // the peer or close() ended the stream
    static const Error timeout;          // a timeout or an enclosing Timeout scope ran out
    static const Error canceled;         // the calling thread has been canceled
    static const Error busy;             // another thread waits there already, or it is taken
    static const Error oversized;        // a line or "*a" longer than the stream's limit
    static const Error deadlock;         // threads are parked that nothing can wake
    static const Error not_a_thread;     // the call parks, and no thread is running
    static const Error already_running;  // loop() or step() within loop() or step()
    static const Error destroyed;        // what was asked is no longer there
    static const Error too_many;         // more than the object can ever hold
    static const Error not_owner;        // released by somebody who does not hold it
    static const Error not_found;        // no such host
    static const Error forked;           // the loop was made by the parent process
    static const Error unsupported;      // this descriptor cannot be polled (a regular file, say)
    static const Error no_memory;        // ENOMEM: memory, mappings or the thread limit ran out
    static const Error invalid;          // EINVAL: an argument outside its range

  private:
    constexpr explicit Error(int code) : code_{code} {}

    // copse's own reasons are numbered above every errno.
    static constexpr int own = 10000;
    constexpr int meaning() const {
        switch (code_) {
        case EPIPE: case ECONNRESET: case ECONNABORTED: return own + 1;
        case ETIMEDOUT: return own + 2;
        default: return code_;
        }
    }

    int code_ = 0;
};

inline constexpr Error Error::none{0};
inline constexpr Error Error::closed{own + 1};
inline constexpr Error Error::timeout{own + 2};
inline constexpr Error Error::canceled{own + 3};
inline constexpr Error Error::busy{own + 4};
inline constexpr Error Error::oversized{own + 5};
inline constexpr Error Error::deadlock{own + 6};
inline constexpr Error Error::not_a_thread{own + 7};
inline constexpr Error Error::already_running{own + 8};
inline constexpr Error Error::destroyed{own + 9};
inline constexpr Error Error::too_many{own + 10};
inline constexpr Error Error::not_owner{own + 11};
inline constexpr Error Error::not_found{own + 12};
inline constexpr Error Error::forked{own + 13};
inline constexpr Error Error::unsupported{own + 14};
inline constexpr Error Error::no_memory{ENOMEM};
inline constexpr Error Error::invalid{EINVAL};

// Lua's two results: a value and the reason it is not whole. On error, value keeps what was
// obtained before it. `auto [line, error] = peer.receive("*l");`
template <class T> struct Result {
    T value{};
    Error error{};

    constexpr explicit operator bool() const { return !error; }
    constexpr T& operator*() { return value; }
    constexpr const T& operator*() const { return value; }
    constexpr T* operator->() { return &value; }
    constexpr const T* operator->() const { return &value; }
};

}  // namespace copse

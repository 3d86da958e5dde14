// Thread: a function with a stack of its own that gives way whenever it has to wait.
//
// Threads belong to the loop of the OS thread that added them and never leave it; between two
// parking calls nothing else runs. A Thread is a handle, {slot, generation}: copyable, never
// dangling; a stale one answers as a finished thread.
#pragma once

#include <copse/error.h>
#include <copse/time.h>

#include <new>
#include <type_traits>
#include <utility>
#if defined(__cpp_exceptions)
#include <exception>
#endif

namespace copse {

namespace detail {
struct Access;
}

// Every function here answers Error::not_a_thread where it would have to park outside a thread.
class Thread {
  public:
    constexpr Thread() = default;  // no thread: answers as a finished one

    // Parks until the thread has finished. canceled, timeout: the caller was; the thread goes on.
    // deadlock: a thread cannot wait for itself. Any number of threads may join one.
    COPSE_API Error join() const;

    // The thread's current and every later parking call returns Error::canceled; the thread ends
    // by returning, so destructors run. No effect on a finished one. Does not park.
    // Answers to copas.removethread, which abandons the thread instead.
    COPSE_API Error cancel() const;

    // Wakes the thread from park(), or lets its next park() return at once. destroyed: it has
    // finished. Does not park. Answers to copas.wakeup.
    COPSE_API Error unpark() const;

    COPSE_API bool finished() const;

    // Unique among the loop's threads, dead ones included; 0 for no thread.
    constexpr uint64_t id() const { return uint64_t(generation_) << 32 | slot_; }

    // "" once it has finished. The name is copied and cut at 31 bytes.
    COPSE_API const char* name() const;
    COPSE_API void setname(const char* name) const;

    // Bytes: the deepest use so far of the thread's stack, by any thread that had it, as far as
    // touched memory tells; and its usable size. 0 once it has finished.
    COPSE_API size_t stack_used() const;
    COPSE_API size_t stack_size() const;

    friend constexpr bool operator==(Thread a, Thread b) { return a.id() == b.id(); }

  private:
    friend struct detail::Access;
    constexpr Thread(uint32_t slot, uint32_t generation) : slot_{slot}, generation_{generation} {}

    uint32_t slot_ = 0;
    uint32_t generation_ = 0;  // never 0 in a thread that exists
};

struct ThreadOptions {
    const char* name = nullptr;  // copied, cut at 31 bytes; null: "thread_<n>"
    size_t stack_size = 0;       // usable bytes, rounded up to a power of two; 0: 64 KiB
    bool own_fp_environment = false;  // keep rounding mode and the like apart from other threads'
};

namespace detail {

// A thread that has a stack and no body yet: the closure goes to `room`, at the top of the stack.
struct Reserved {
    Thread thread;
    void* room;
};
COPSE_API Result<Reserved> reserve_thread(const ThreadOptions&, size_t size, size_t alignment);
COPSE_API void launch_thread(Thread, void (*body)(void* room));
COPSE_API void abandon_thread(Thread);
COPSE_API void thread_failed(const char* what);

#if defined(__cpp_exceptions)
inline constexpr bool with_exceptions = true;
#else
inline constexpr bool with_exceptions = false;
#endif

// Gives the reservation back if making the closure throws.
struct Reservation {
    Thread thread;
    bool kept = false;
    ~Reservation() { if (!kept) abandon_thread(thread); }
};

// The outermost frame of a thread that the user's compiler sees: exceptions end here. Exceptions
// is part of the name so that translation units with and without them may be linked together.
template <class Body, bool Exceptions> void run_body(void* room) {
    Body& body = *static_cast<Body*>(room);
#if defined(__cpp_exceptions)
    try {
        body();
    } catch (const std::exception& e) {
        thread_failed(e.what());
    } catch (...) {
        thread_failed("an exception that is no std::exception");
    }
#else
    body();
#endif
    body.~Body();
}

template <class Body> Result<Thread> spawn(const ThreadOptions& options, Body&& body) {
    using Stored = std::decay_t<Body>;
    Result<Reserved> place = reserve_thread(options, sizeof(Stored), alignof(Stored));
    if (!place) return {{}, place.error};
    Reservation reservation{place->thread};
    ::new (place->room) Stored(std::forward<Body>(body));
    reservation.kept = true;
    launch_thread(place->thread, run_body<Stored, with_exceptions>);
    return {place->thread, {}};
}

}  // namespace detail

// Adds a thread that runs fn(args...); it is scheduled, and runs from the next turn on. fn and
// args are moved or copied in. Anyone on the loop's OS thread may call it; does not park.
// no_memory: no stack could be had. Answers to copas.addthread and copas.addnamedthread.
template <class F, class... Args>
    requires(!std::is_same_v<std::remove_cvref_t<F>, ThreadOptions>)
Result<Thread> addthread(F&& fn, Args&&... args) {
    return addthread(ThreadOptions{}, std::forward<F>(fn), std::forward<Args>(args)...);
}

template <class F, class... Args>
Result<Thread> addthread(ThreadOptions options, F&& fn, Args&&... args) {
    if constexpr (sizeof...(Args) == 0) {
        return detail::spawn(options, std::forward<F>(fn));
    } else {
        return detail::spawn(options, [fn = std::forward<F>(fn),
                                       ... args = std::forward<Args>(args)]() mutable {
            std::move(fn)(std::move(args)...);
        });
    }
}

// The running thread; no thread where none is.
COPSE_API Thread self();
COPSE_API bool inthread();

// Lets every thread that is ready run first. canceled, timeout. Answers to copas.pause(0).
COPSE_API Error yield();

// Parks for a time, never less than asked. canceled; timeout: an enclosing scope ended first.
// Answers to copas.pause.
COPSE_API Error sleep_for(Duration);
COPSE_API Error sleep_until(Time);

// Parks until somebody calls unpark() on this thread; returns at once if that happened since the
// last park(). canceled, timeout. Answers to copas.pauseforever.
COPSE_API Error park();

// Who hears of an exception that left a thread, and of what the loop itself has to report (then
// the thread may be none). The handler runs on the failing thread and must not park; one that
// throws is survived. Sets it for the running thread, or for every thread that has none of its
// own when default_for_all is set; null restores the default, which prints a line to standard
// error. not_a_thread: no thread is running and it was not for all. Answers to
// copas.seterrorhandler.
using ErrorHandler = void (*)(Thread, const char* what, void* context);
inline Error seterrorhandler(ErrorHandler, void* context = nullptr, bool default_for_all = false);

namespace detail {

// A handler is called through here: its exceptions end where the user's compiler sees them, since
// the library, which needs no C++ runtime, cannot. false: it threw.
template <bool Exceptions>
bool call_handler(ErrorHandler handler, Thread thread, const char* what, void* context) {
#if defined(__cpp_exceptions)
    try {
        handler(thread, what, context);
    } catch (...) {
        return false;
    }
#else
    handler(thread, what, context);
#endif
    return true;
}
using HandlerCaller = bool (*)(ErrorHandler, Thread, const char* what, void* context);
COPSE_API Error set_error_handler(ErrorHandler, HandlerCaller, void* context, bool default_for_all);

COPSE_API void* local_find(const void* key);
// Room for a value of the running thread's, added once it is made; null: no thread, or no memory.
COPSE_API void* local_room(size_t size, size_t alignment);
COPSE_API void local_add(void* room, const void* key, void (*destroy)(void*));
COPSE_API void local_drop(void* room);

// Gives the room back if making the value throws.
struct LocalRoom {
    void* room;
    ~LocalRoom() { if (room) local_drop(room); }
};

}  // namespace detail

inline Error seterrorhandler(ErrorHandler handler, void* context, bool default_for_all) {
    return detail::set_error_handler(handler, detail::call_handler<detail::with_exceptions>,
                                     context, default_for_all);
}

// One T per thread, made at its first use there and destroyed with the thread, in the reverse
// order of making. The Local itself must outlive the threads that use it. What thread_local is to
// OS threads: a thread_local is shared by all threads of a loop.
template <class T> class Local {
  public:
    constexpr Local() = default;
    Local(const Local&) = delete;
    Local& operator=(const Local&) = delete;

    // The running thread's T; null outside a thread or without memory.
    T* get() {
        if (void* found = detail::local_find(this)) return static_cast<T*>(found);
        detail::LocalRoom kept{detail::local_room(sizeof(T), alignof(T))};
        if (!kept.room) return nullptr;
        T* made = ::new (kept.room) T();
        detail::local_add(kept.room, this, destroy);
        kept.room = nullptr;
        return made;
    }
    T& operator*() { return *get(); }
    T* operator->() { return get(); }

  private:
    static void destroy(void* value) { static_cast<T*>(value)->~T(); }
};

}  // namespace copse

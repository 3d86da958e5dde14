// Sim: a program of copse's, unmodified, in a simulated world; one integer is the whole run.
//
// A World has hosts with names and addresses, links between them, a clock that jumps from event to
// event, and chance that comes from a seed. A host runs what a machine would: a main() with its own
// loop, threads, servers, connections. Order of threads, sizes of segments, delays and (where asked
// for) faults are drawn from the seed: the same seed is the same run, on every machine and in every
// build, and `trace()` is a number that says so.
//
// Link with copse_sim; copse itself stays as it is. All of this runs in one OS thread. The world's
// functions are called from outside of its hosts (in the body given to run(), in at(), always(),
// eventually()); those marked so may be called from a host's threads too. None of them parks.
#pragma once

#include <copse/copse.h>

#include <new>
#include <type_traits>
#include <utility>

namespace copse::sim {

class World;

namespace detail {

class Simulation;
struct Machine;

// Something to call, once or often: a closure on the heap.
struct Task {
    void (*call)(void* closure) = nullptr;
    void (*destroy)(void* closure) = nullptr;
    void* closure = nullptr;
};
COPSE_API void* task_memory(size_t size);  // never null: a simulator that has none ends
COPSE_API void task_release(void*);

template <class F> Task task(F&& fn) {
    using Stored = std::decay_t<F>;
    static_assert(alignof(Stored) <= alignof(max_align_t));
    auto* stored = ::new (task_memory(sizeof(Stored))) Stored(std::forward<F>(fn));
    return {[](void* closure) { (void)(*static_cast<Stored*>(closure))(); },
            [](void* closure) {
                static_cast<Stored*>(closure)->~Stored();
                task_release(closure);
            },
            stored};
}
COPSE_API void program_ended(Machine*, bool awaited);
// Has a closure run as a thread of the loop that is current; it is destroyed with the thread.
using Launch = Error (*)(void* closure, Machine*, bool awaited);
template <class Stored> Error launch(void* closure, Machine* machine, bool awaited) {
    struct Body {
        Stored* fn;
        Machine* machine;
        bool awaited;
        Body(void* c, Machine* m, bool a) : fn{static_cast<Stored*>(c)}, machine{m}, awaited{a} {}
        Body(Body&& other) noexcept
            : fn{other.fn}, machine{other.machine}, awaited{other.awaited} {
            other.fn = nullptr;
        }
        ~Body() {
            if (!fn) return;
            fn->~Stored();
            task_release(fn);
            program_ended(machine, awaited);
        }
        void operator()() { (void)(*fn)(); }
    };
    return addthread(Body{closure, machine, awaited}).error;
}

// A task that asks; the answer goes through the closure.
template <class F> Task question(F&& fn, bool* answer) {
    return task([fn = std::forward<F>(fn), answer]() mutable { *answer = bool(fn()); });
}

}  // namespace detail

// Which ready thread runs next.
enum class Schedule : uint8_t {
    production,  // first in, first out, as without a simulator
    random,      // any
    pct,         // the one of highest priority; priorities change at `depth` - 1 random dispatches
    native,      // nobody is asked: the loop goes the fast lane that it goes without a simulator. A
                 // step is a look at the clock; the loop's invariants are checked when it polls
    any,         // one of the first three, drawn with the seed
};

// A machine of the world. A handle: copyable, valid as long as its world.
class Host {
  public:
    // Adds fn as a thread of the host's loop; the world goes on until fn has returned and, if the
    // host has no other programs than such, its loop has nothing left to do.
    template <class F> void run(F&& fn) {
        start(detail::task(std::forward<F>(fn)), detail::launch<std::decay_t<F>>, true);
    }
    // The same, but nobody waits for it: canceled when all that are waited for have returned.
    template <class F> void serve(F&& fn) {
        start(detail::task(std::forward<F>(fn)), detail::launch<std::decay_t<F>>, false);
    }
    // fn is a main(): runs outside of any thread and calls copse::loop() itself. Not waited for.
    template <class F> void main(F&& fn) {
        start(detail::task(std::forward<F>(fn)), nullptr, false);
    }

    COPSE_API const char* name() const;
    COPSE_API const char* address() const;  // IPv4, as text

    // The host does nothing for so long: what arrives is found afterwards.
    COPSE_API void pause(Duration);
    // Its clock is off by so much, and gains drift_ppm microseconds a second.
    COPSE_API void setclock(Duration offset, int drift_ppm = 0);
    // Its limit of open descriptors (1,024 unless told otherwise).
    COPSE_API void setdescriptors(size_t limit);
    // Every allocation and mapping beyond so many bytes fails; 0: no limit.
    COPSE_API void setmemory(size_t bytes);

    COPSE_API Status status() const;      // of its loop
    COPSE_API size_t descriptors() const;  // open now
    COPSE_API size_t memory() const;       // bytes allocated and mapped now
    COPSE_API uint64_t steps() const;      // threads dispatched

    // Asked before each call of the host's system table, with its name and how many came before it:
    // the errno it is to fail with, or 0. A plain function: fault injection that has to be exact.
    COPSE_API void setfault(int (*fault)(void* context, const char* call, uint64_t number),
                            void* context);

  private:
    friend class detail::Simulation;
    friend class World;
    explicit Host(detail::Machine* machine) : machine_{machine} {}
    COPSE_API void start(detail::Task, detail::Launch, bool awaited);

    detail::Machine* machine_;
};

// What goes wrong, and how often: chances from 0 to 1. Legal variety (order, segmentation, delay,
// spurious readiness) is always there; these are not, unless asked for.
struct Faults {
    double reset = 0;          // per packet: its connection is reset, both ends are told
    double lost = 0;           // per packet: comes again after the sender's patience
    double memory = 0;         // per allocation: there is none
    double descriptors = 0;    // per socket: EMFILE, ENFILE, ENOBUFS or ENOMEM
    double aborted = 0;        // per accept: ECONNABORTED, EPROTO or a network's error
    double short_write = 0;    // per write: the kernel takes less than it has room for
    double library = 0;        // per choice in copse itself: a legal way seldom gone
    double pause = 0;          // per second and host: it stands still
    double partition = 0;      // per second and link: it is cut, one way or both
    Duration pause_length = Duration::nanoseconds(2'000'000'000);
    Duration partition_length = Duration::nanoseconds(5'000'000'000);
    uint64_t budget = UINT64_MAX;  // faults in all

    // Some of each, strong enough to be met by a short program.
    static Faults many() {
        Faults f;
        f.reset = f.lost = f.memory = f.descriptors = f.aborted = 0.005;
        f.short_write = f.library = 0.1;
        f.pause = f.partition = 0.02;
        return f;
    }
};

class World {
  public:
    // The host of that name, made at its first mention. Names are resolved by connect() and bind().
    COPSE_API Host host(const char* name);

    COPSE_API uint64_t seed() const;
    COPSE_API Duration elapsed() const;  // virtual time since the beginning; hosts may ask
    COPSE_API uint64_t steps() const;    // threads dispatched on all hosts; hosts may ask
    COPSE_API uint64_t trace() const;    // a number that stands for all that has happened
    // One of n, from the seed. Hosts may ask.
    COPSE_API uint32_t choose(uint32_t n);

    // Calls fn once, so long after the beginning; or every so often.
    template <class F> void at(Duration when, F&& fn) {
        schedule(when, Duration{}, detail::task(std::forward<F>(fn)));
    }
    template <class F> void every(Duration period, F&& fn) {
        schedule(period, period, detail::task(std::forward<F>(fn)));
    }
    // Must hold whenever it is looked at: before each turn of a host.
    template <class F> void always(const char* what, F&& holds) {
        bool* answer = promise(what, Duration{});
        answered_by(detail::question(std::forward<F>(holds), answer));
    }
    // Must hold within so long from now, and at the latest when the run ends; then it is done with.
    template <class F> void eventually(const char* what, Duration within, F&& holds) {
        bool* answer = promise(what, within);
        answered_by(detail::question(std::forward<F>(holds), answer));
    }

    // Links. Unless told otherwise every two hosts are 50-500 us apart and nothing limits them.
    COPSE_API void setlatency(Host a, Host b, Duration least, Duration most);
    COPSE_API void setbandwidth(Host a, Host b, uint64_t bytes_per_second);
    COPSE_API void partition(Host from, Host to, bool both_ways = true);
    COPSE_API void heal(Host a, Host b);
    COPSE_API void heal();  // everything

    // What goes wrong from now on. swarm: each kind is on or off in this run, and as strong as may
    // be up to what is given; all at once would hide what only one brings out.
    COPSE_API void setfaults(const Faults&, bool swarm = false);
    COPSE_API uint64_t faults() const;  // so many have happened

    // Ends the run as failed, at the next wait of the host that calls it: so a check may stand
    // anywhere, and what follows it must bear that it did not hold.
    COPSE_API void fail(const char* format, ...) __attribute__((format(printf, 2, 3)));
    COPSE_API bool failed() const;

  private:
    friend class detail::Simulation;
    explicit World(detail::Simulation& simulation) : simulation_{&simulation} {}
    World(const World&) = delete;
    World& operator=(const World&) = delete;
    COPSE_API void schedule(Duration when, Duration period, detail::Task);
    COPSE_API bool* promise(const char* what, Duration within);
    COPSE_API void answered_by(detail::Task);

    detail::Simulation* simulation_;
};

// From a host's thread: as World::fail() and World::check would be, of the world it is in. Outside
// of a world the program ends.
COPSE_API void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
inline void check(bool held, const char* what) {
    if (!held) fail("%s", what);
}
// A campaign fails if one of its marks was never reached with a condition that held.
COPSE_API void sometimes(const char* mark, bool reached = true);
// The world this code runs in; null: the real one.
COPSE_API World* inside();

struct Options {
    Schedule schedule = Schedule::any;
    unsigned depth = 3;                                                   // of Schedule::pct
    Duration limit = Duration::nanoseconds(3600'000'000'000);             // of virtual time
    uint64_t most_steps = 100'000'000;                                    // then the run has failed
    uint64_t steps_per_second = 2'000'000;  // of virtual time, on one host: more is a livelock
    unsigned audit = 0;       // check the loop's own invariants at every so many dispatches; 0: never
    uint64_t stop_at = 0;     // raise SIGTRAP before that step
    const char* replay = nullptr;  // a file of choices; the seed's others are the usual ones
    bool verbose = false;     // say what happens, on standard error
};

struct Outcome {
    bool ok = false;
    uint64_t seed = 0, steps = 0, trace = 0, faults = 0;
    Duration elapsed;
    char failure[256] = {};  // what failed first

    explicit operator bool() const { return ok; }
};

namespace detail {
// A body as plain C would pass it: the function, and what it is called with.
template <class F> struct Bound {
    F& body;
    static void call(void* bound, World& world) { static_cast<Bound*>(bound)->body(world); }
};
template <class F> Bound(F&) -> Bound<F>;
COPSE_API Outcome run(uint64_t seed, const Options&, void (*body)(void*, World&), void* context);
}

// Makes a world from the seed, has `body` people it, and runs it to its end: until every thread
// given to Host::run() has returned and the loops of hosts that serve nobody have come to rest. Then
// the rest is canceled. It has failed if fail() was called, a promise broken, a limit passed,
// nothing could ever happen any more, or a host left descriptors or memory behind.
template <class F> Outcome run(uint64_t seed, F&& body, const Options& options = {}) {
    detail::Bound bound{body};
    return detail::run(seed, options, bound.call, &bound);
}

struct CampaignOptions {
    Options run{};
    uint64_t seeds = 1000;
    uint64_t first = 1;
    uint64_t steps = UINT64_MAX;       // no more seeds are begun after so many
    unsigned processes = 0;            // 0: one a processor
    unsigned doubles = 10;             // every so many-th seed is run twice and must go alike; 0: none
    bool shrink = true;                // a failure is made small and written to <name>.replay
    const char* folder = ".";          // where to
    Duration patience = Duration::nanoseconds(60'000'000'000);  // of real time: a run that takes longer hangs
};

namespace detail {
COPSE_API int campaign(const char* name, CampaignOptions, void (*body)(void*, World&), void*);
}

// Runs many seeds, in processes of their own, and says on standard error how far it is. 0: all went
// well and every mark was reached; 1: not; the seed, the step, the trace and the command that
// replays it are printed. The environment overrides: COPSE_SEED=n runs that one alone
// (COPSE_VERBOSE=1 says all that happens), COPSE_SEEDS=n, COPSE_STEPS=n or COPSE_SECONDS=n so many,
// COPSE_FIRST=n from that one on, COPSE_SCHEDULE=word all on that Schedule, COPSE_AUDIT=n checks so
// often, COPSE_STOP_AT=n stops in the debugger before that step, COPSE_REPLAY=file replays what a
// shrinker left.
template <class F> int campaign(const char* name, const CampaignOptions& options, F&& body) {
    detail::Bound bound{body};
    return detail::campaign(name, options, bound.call, &bound);
}

// Runs every schedule of a small program that goes off the usual order in at most `preemptions`
// places, all else being as usual. How many there were; the first that failed ends it.
struct Exhausted {
    uint64_t schedules = 0;
    bool complete = false;  // false: it failed, or there were more than `most`
    Outcome last;
};
namespace detail {
COPSE_API Exhausted exhaust(unsigned preemptions, uint64_t most, const Options&,
                            void (*body)(void*, World&), void*);
}
template <class F>
Exhausted exhaust(unsigned preemptions, F&& body, uint64_t most = 10'000'000,
                  const Options& options = {}) {
    detail::Bound bound{body};
    return detail::exhaust(preemptions, most, options, bound.call, &bound);
}

}  // namespace copse::sim

// Sim torture: one scenario in a world of two hosts, with one call of its host made to fail.
//
// `here` runs the program under test, `there` a well-behaved peer. A Trial keeps what the program
// was told and what arrived where; a Plan says which call fails, and counts them.
#pragma once

#include "machine.h"
#include "test.h"

#include <copse/sim.h>

#include <errno.h>
#include <string>
#include <vector>

namespace torture {

using namespace copse;
using namespace copse::literals;
using sim::World;

// The errnos of a call, as its manual page lists them. What is left out, and why:
//  - EAGAIN of accept, recv and sendmsg: an edge-triggered kernel says it only with another edge to
//    follow. The world says it itself, of every socket that has nothing.
//  - EINPROGRESS and EALREADY of connect: the world answers the former to every connect, and the
//    latter stands for the same.
//  - EBADF and EINVAL of epoll_wait: a loop that cannot poll ends the program, by design; see
//    fault_test.
struct Fallible {
    const char* call;
    std::vector<int> errnos;
};
inline const std::vector<Fallible> fallibles = {
    {"allocate", {ENOMEM}},
    {"map", {ENOMEM, EAGAIN, ENFILE, EPERM}},
    {"guard", {EACCES, EAGAIN, EBADF, EINTR, EINVAL, EIO, ENOMEM, EPERM}},
    {"poller_open", {EINTR, EINVAL, EMFILE, ENFILE, ENOMEM}},
    {"poller_add", {EBADF, EEXIST, EINTR, EINVAL, ELOOP, ENOENT, ENOMEM, ENOSPC, EPERM}},
    {"poller_remove", {EBADF, EINTR, EINVAL, ENOENT, ENOMEM, EPERM}},
    {"poller_wait", {EAGAIN, EFAULT, EINTR, ENOMEM}},
    {"open_socket",
     {EACCES, EAFNOSUPPORT, EINTR, EINVAL, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPROTONOSUPPORT}},
    {"open_pair",
     {EAFNOSUPPORT, EFAULT, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, EOPNOTSUPP, EPROTONOSUPPORT}},
    {"adopt", {EACCES, EAGAIN, EBADF, EINTR, EINVAL, EPERM}},
    {"close", {EBADF, EDQUOT, EINTR, EIO, ENOSPC}},
    {"bind",
     {EACCES, EADDRINUSE, EADDRNOTAVAIL, EBADF, EFAULT, EINTR, EINVAL, ELOOP, ENAMETOOLONG, ENOENT,
      ENOMEM, ENOTDIR, ENOTSOCK, EROFS}},
    {"listen", {EADDRINUSE, EBADF, EINTR, EINVAL, ENOBUFS, ENOTSOCK, EOPNOTSUPP}},
    {"accept",
     {EBADF, ECONNABORTED, EFAULT, EHOSTDOWN, EHOSTUNREACH, EINTR, EINVAL, EMFILE, ENETDOWN,
      ENETUNREACH, ENFILE, ENOBUFS, ENOMEM, ENOPROTOOPT, ENOTSOCK, EOPNOTSUPP, EPERM, EPROTO,
#ifdef __linux__
      ENONET, ENOSR,
#endif
      EPROTONOSUPPORT, ESOCKTNOSUPPORT, ETIMEDOUT}},
    {"connect",
     {EACCES, EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT, EAGAIN, EBADF, ECONNREFUSED, EFAULT, EINTR,
      EISCONN, ENETUNREACH, ENOTSOCK, EPERM, EPROTOTYPE, ETIMEDOUT}},
    {"shutdown", {EBADF, EINTR, EINVAL, ENOBUFS, ENOTCONN, ENOTSOCK}},
    {"get_peer_name", {EBADF, EFAULT, EINTR, EINVAL, ENOBUFS, ENOTCONN, ENOTSOCK}},
    {"get_socket_name", {EBADF, EFAULT, EINTR, EINVAL, ENOBUFS, ENOTSOCK}},
    {"get_option", {EBADF, EFAULT, EINTR, EINVAL, ENOBUFS, ENOMEM, ENOPROTOOPT, ENOTSOCK}},
    {"set_option",
     {EBADF, EDOM, EFAULT, EINTR, EINVAL, EISCONN, ENOBUFS, ENOMEM, ENOPROTOOPT, ENOTSOCK}},
    {"receive",
     {EBADF, ECONNREFUSED, ECONNRESET, EFAULT, EHOSTUNREACH, EINTR, EINVAL, EIO, ENOBUFS, ENOMEM,
      ENOTCONN, ENOTSOCK, ETIMEDOUT}},
    {"send",
     {EACCES, EALREADY, EBADF, ECONNRESET, EDESTADDRREQ, EFAULT, EHOSTUNREACH, EINTR, EINVAL,
      EISCONN, EMSGSIZE, ENETDOWN, ENETUNREACH, ENOBUFS, ENOMEM, ENOTCONN, ENOTSOCK, EOPNOTSUPP,
      EPIPE, ETIMEDOUT}},
    {"unlink",
     {EACCES, EBUSY, EFAULT, EINTR, EIO, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOMEM, ENOTDIR,
      EPERM, EROFS}},
    {"look_up", {EINTR, ENOENT}},
};
inline size_t number_of(const char* call) {
    for (size_t i = 0; i < fallibles.size(); ++i)
        if (!strcmp(fallibles[i].call, call)) return i;
    test::fail(__FILE__, __LINE__, call);
    return 0;
}
inline bool takes_memory(const char* call) {
    return !strcmp(call, "allocate") || !strcmp(call, "map");
}

// Which call is to fail, and how. A plan for no call counts.
struct Plan {
    const char* call = nullptr;    // of fallibles; null: none
    uint64_t number = 0;           // how many of that name go before it
    int error = 0;
    // Another that fails first, where what is meant comes only after it.
    const char* first_call = nullptr;
    uint64_t first_number = 0;
    int first_error = 0;
    // number counts allocations and mappings together, and all of them fail from then on.
    bool memory_from_then_on = false;

    bool struck = false;
    bool over = false;             // the trial is about what comes after the fault
    uint64_t memory_asked = 0;
    bool counts = false;
    std::vector<uint64_t> counted = std::vector<uint64_t>(fallibles.size());
    // Hears of each call that is counted, and of the one that is failed.
    void (*watch)(void*, size_t call, uint64_t number, bool strikes) = nullptr;
    void* watcher = nullptr;

    int ask(const char* name, uint64_t before) {
        if (over) return 0;
        if (memory_from_then_on) {
            if (!takes_memory(name) || memory_asked++ < number) return 0;
            struck = true;
            return ENOMEM;
        }
        if (first_call && before == first_number && !strcmp(name, first_call)) return first_error;
        bool strikes = !counts && !struck && before == number && call && !strcmp(name, call);
        if (!counts && !strikes) return 0;
        size_t at = number_of(name);
        if (watch) watch(watcher, at, before, strikes);  // one place: backtraces are compared
        if (strikes) {
            struck = true;
            return error;
        }
        counted[at] = before + 1;
        memory_asked += takes_memory(name);
        return 0;
    }
    static int ask_here(void* plan, const char* name, uint64_t before) {
        return static_cast<Plan*>(plan)->ask(name, before);
    }
};

// What is sent, by everybody.
inline std::string_view text(size_t size, size_t from = 0) {
    static const std::string all = [] {
        std::string made(size_t(2) << 20, ' ');
        for (size_t i = 0; i < made.size(); ++i)
            made[i] = char('a' + (i * 7 + i / 251 + i / 9973) % 26);
        return made;
    }();
    return std::string_view(all).substr(from, size);
}

struct Trial {
    World* world = nullptr;
    int told = 0;              // errors that a call returned, or a handler heard of
    int missing = 0;           // of what an undisturbed run shows
    const char* what_is_missing = "";
    size_t accepted = 0;       // by send, for the peer that keeps what it hears: text(accepted)
    std::string heard;         // by that peer
    bool gave_up = false;      // the program itself has dropped what was accepted
    uint64_t lost = 0;
    bool cut = false;          // whether the hosts are to be apart; so from the next turn on
    bool ended = false;        // the program under test has
    bool late = false;         // it would have waited for ever
    int clients_done = 0, answers = 0;

    bool fine(Error error) {
        told += bool(error);
        return !error;
    }
    template <class T> bool fine(const Result<T>& result) { return fine(result.error); }
    void expect(bool held, const char* what) {
        if (held) return;
        if (!missing++) what_is_missing = what;
    }
    // The call had to end so; any other error is told, one of the same meaning, too.
    bool ends(Error got, Error wanted, const char* what) {
        if (got.code() == wanted.code()) return true;
        if (got) ++told;
        else expect(false, what);
        return false;
    }
    // The same, where the kernel may have a word of its own for it.
    void means(Error got, Error wanted, const char* what) {
        if (got != wanted) ends(got, wanted, what);
    }
    // What came is the beginning of what was to come, or all of it.
    void same(std::string_view got, std::string_view wanted, bool whole, const char* what) {
        if (got.size() > wanted.size() || wanted.substr(0, got.size()) != got)
            sim::fail("%s: other bytes", what);
        if (whole) expect(got.size() == wanted.size(), what);
    }

    Stream dial(uint16_t port) {
        Result<Stream> stream = connect("there", port, 20_s);
        if (fine(stream)) stream->settimeout(20_s);
        return std::move(*stream);
    }
    bool put(Stream& stream, size_t size) {
        Result<size_t> sent = stream.send(text(size, accepted));
        accepted += *sent;
        return fine(sent);
    }
    template <class F> Thread go(F fn) {
        Result<Thread> made = addthread([this, fn = std::move(fn)]() mutable { bounded(fn); });
        (void)fine(made);
        return *made;
    }
    // Nothing here takes so long, unless something that had to happen never did.
    template <class F> void bounded(F& fn) {
        Timeout whole{250_s};
        fn();
        late |= whole.expired();
    }
    static void hear(Thread, const char* what, void* trial) {
        if (strcmp(what, "on purpose")) ++static_cast<Trial*>(trial)->told;
    }
};

struct Scenario {
    const char* name;
    unsigned services;                  // of the peer: bits of Service
    void (*program)(Trial&);            // runs as a thread, or, if `is_main`, as a main()
    void (*clients)(Trial&) = nullptr;  // runs as a thread of the peer
    bool is_main = false;
    bool is_long = false;               // has too many calls for more than one seed
    size_t descriptors = 1024;          // that its host may have
};

// The peer ----------------------------------------------------------------------------------------

enum Service : unsigned {
    echo = 1,
    sink = 2,       // reads to the end, and keeps what it hears
    source = 4,
    mute = 8,       // reads to the end, and says nothing
    resetter = 16,  // resets after a line
    deaf = 32,      // reads nothing
    lines = 64,
};
constexpr uint16_t first_port = 4000;
constexpr uint16_t port_of(Service service) {
    return uint16_t(first_port + __builtin_ctz(service));
}
constexpr size_t source_size = 100000;
constexpr const char* some_lines = "one\r\ntwo\n\nthree and a half\nthe rest";

inline void serve_peer(Trial& t, Service service, Stream& stream) {
    stream.settimeout(100_s);
    std::string room(8192, ' ');
    auto drain = [&](bool keeps, bool answers) {
        for (;;) {
            Result<std::span<char>> got = stream.receive_some(std::span<char>(room));
            if (!got) return;
            if (keeps) t.heard.append(got->data(), got->size());
            if (answers && !stream.send({got->data(), got->size()})) return;
        }
    };
    switch (service) {
    case echo: return drain(false, true);
    case sink: return drain(true, false);
    case source: (void)stream.send(text(source_size)); return;
    case mute: return drain(false, false);
    case resetter: (void)stream.receive("*l"); (void)stream.reset(); return;
    case deaf: (void)sleep_for(60_s); return;
    case lines:
        (void)stream.send(some_lines);
        (void)stream.shutdown(How::send);
        return drain(false, false);
    }
}

inline void serve_peers(Trial& t, unsigned services) {
    for (unsigned bit = 1; bit <= lines; bit <<= 1) {
        if (!(services & bit)) continue;
        auto service = Service(bit);
        (void)addserver(port_of(service),
                        [&t, service](Stream& stream) { serve_peer(t, service, stream); });
    }
}

// A run -------------------------------------------------------------------------------------------

// Whether the loop still does what loops do.
inline bool serves(Trial& t, bool has_echo) {
    Result<std::pair<Stream, Stream>> both = pair();
    if (!both || !both->first.send("there\n")) return false;
    if (both->second.receive("*l").value != "there") return false;
    Result<Listener> listener = bind("127.0.0.1", 0);
    Result<Address> address = listener->address();
    if (!listener || !address) return false;
    Result<Thread> other = addthread([&] {
        Result<Stream> peer = listener->accept();
        (void)peer->send("and back\n");
    });
    Result<Stream> stream = connect(*address, 20_s);
    if (!other || !stream || stream->receive("*l").value != "and back") return false;
    if (other->join() || !has_echo) return !has_echo;
    stream = connect(t.world->host("there").address(), port_of(echo), 20_s);
    return stream && stream->send("far\n") && stream->receive("*l").value == "far";
}

inline sim::Outcome live(const Scenario& scenario, uint64_t seed, Plan& plan, Trial& t) {
    auto main_program = [&] {
        Error error = seterrorhandler(Trial::hear, &t, true);
        if (!t.fine(error)) error = seterrorhandler(Trial::hear, &t, true);
        if (!error && scenario.is_main) scenario.program(t);
        else if (!error) {
            auto body = [&] { scenario.program(t); };
            error = loop([&] { t.bounded(body); });
        }
        (void)t.fine(error);
        plan.over = true;
        // Those whom nobody will wake because whoever was to could not be had.
        cancelall();
        if (Error left = loop()) sim::fail("loop() afterwards: %s", left.message());
        t.lost = status().lost;
        bool served = false;
        error = loop([&] { served = serves(t, scenario.services & echo); });
        if (error || !served) sim::fail("the loop does not serve any more (%s)", error.message());
        if (status().lost != t.lost) sim::fail("bytes are lost without any fault");
        t.ended = true;
    };
    sim::Options options{.limit = 3600_s, .steps_per_second = 200'000,
                         .audit = scenario.is_long ? 31u : 3u};
    options.schedule = seed % 3 == 0 ? sim::Schedule::pct : sim::Schedule::random;
    auto people = [&](World& world) {
        t.world = &world;
        sim::Host here = world.host("here"), there = world.host("there");
        if (seed % 2 == 0) world.setfaults({.short_write = 0.2});
        here.setfault(Plan::ask_here, &plan);
        if (scenario.services)
            there.serve([&t, &scenario] { serve_peers(t, scenario.services); });
        if (scenario.clients) there.serve([&t, &scenario] { scenario.clients(t); });
        here.setdescriptors(scenario.descriptors);
        here.main(main_program);
        bool is_cut = false;
        world.always("links are as wanted", [&t, &world, here, there, is_cut]() mutable {
            if (t.cut != is_cut) t.cut ? world.partition(here, there) : world.heal(here, there);
            is_cut = t.cut;
            return true;
        });
        world.eventually("the program under test ends", 3500_s, [&t] { return t.ended; });
    };
    return sim::run(seed, people, options);
}

// Null, or what is wrong with the run. `undisturbed`: nothing was made to fail.
inline const char* judge(const sim::Outcome& outcome, const Trial& t, bool undisturbed) {
    if (!outcome.ok) return outcome.failure;
    if (t.late) return "a call did not end";
    if (t.heard != text(t.heard.size()) || t.heard.size() > t.accepted)
        return "the peer has heard what nobody said";
    // Told or not, each byte is accounted for: no fault here destroys what the kernel has taken.
    if (!t.gave_up && t.heard.size() + t.lost < t.accepted)
        return "bytes are neither delivered nor lost";
    bool lost = t.lost && !t.gave_up;
    if (undisturbed && (t.told || lost)) return "an error without a fault";
    if (t.told || lost) return nullptr;
    return t.missing ? t.what_is_missing : nullptr;
}

}  // namespace torture

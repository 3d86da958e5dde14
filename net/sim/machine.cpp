// A machine's program, clock, memory and poller.
#include "net/sim/simulation.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>

namespace copse::sim::detail {

namespace {

constexpr uint32_t first_address = 0x0a000001;  // 10.0.0.1
constexpr int64_t one_second = 1'000'000'000;
constexpr uint32_t stack_class = 4;  // 256 KiB: what main() and the loop itself stand on

// What a machine takes for a look at the clock; for any other call.
constexpr int64_t clock_cost = 20;
constexpr int64_t call_cost = 200;

// Of 2^32: how often a poller says what is not so.
constexpr uint64_t spurious_chance = uint64_t{1} << 27;

const System& real() { return production_system; }

}  // namespace

Machine::Machine(Simulation& of, uint32_t n, const char* called)
    : System{real()}, world{of}, number{n}, ip{first_address + n} {
    snprintf(name_text, sizeof name_text, "%s", called);
    snprintf(address_text, sizeof address_text, "%u.%u.%u.%u", ip >> 24, ip >> 16 & 255,
             ip >> 8 & 255, ip & 255);
    schedule = Chance::stream(1, n);
    order = Chance::stream(2, n);
    trouble = Chance::stream(3, n);
    library = Chance::stream(4, n);
    bits = Chance::stream(5, n);
    noise = Chance::stream(6, n);
    ports = Chance::stream(7, n);
    dispatch_cost = 50 + int64_t(world.chance.noise(noise) % 50);
    clock = world.time();
    fill_in();
}

Machine::~Machine() {
    for (Program& each : programs) each.task.destroy(each.task.closure);
    if (stack.base && !abandoned) real().unmap(real(), stack.base, stack.size());
}

// The program -------------------------------------------------------------------------------------

void Machine::start(const Program& program) {
    programs.push(program);
    world.program_began(program.awaited);
    serves |= !program.awaited;
    if (clock < world.time()) clock = world.time();
    wake_at = clock;
    if (started) {
        // Its loop, if there is one, takes the thread in at once.
        auto begin = [](void* self) { (void)static_cast<Machine*>(self)->begin_threads(); };
        if (strand.loop() && program.launch) strand.visit(begin, this);
        return;
    }
    if (!stack.base) {
        stack.size_class = stack_class;
        stack.base = static_cast<char*>(real().map(real(), stack.size()));
        copse::check(stack.base != nullptr, "memory for a simulated host's stack");
    }
    strand.begin(stack, *this, live_on, this);
    started = true;
}

// Adds the threads among the programs to the loop; whether there were any.
bool Machine::begin_threads() {
    sheltered = true;
    bool any = false;
    for (uint32_t i = 0; i < programs.size();) {
        Program program = programs[i];
        if (!program.launch) {
            ++i;
            continue;
        }
        programs.remove(i);
        any = true;
        if (Error error = program.launch(program.task.closure, this, program.awaited))
            world.fail_with("host %s: no thread could be added: %s", name_text, error.message());
    }
    sheltered = false;
    return any;
}

// What the machine does between its first program and the end of its last.
void Machine::live() {
    while (!programs.empty()) {
        if (begin_threads()) {
            if (Error error = copse::loop(); error && !world.failed)
                world.fail_with("host %s: loop() answered: %s", name_text, error.message());
        }
        if (programs.empty()) break;
        Program program = programs[0];
        programs.remove(0);
        program.task.call(program.task.closure);
        program.task.destroy(program.task.closure);
        world.program_ended(program.awaited);
    }
    (void)destroy_loop();
    if (open_count && !world.failed)
        world.fail_with("host %s: %zu descriptors were left open", name_text, open_count);
    if ((held || mapped) && !world.failed)
        world.fail_with("host %s: %zu bytes were left allocated", name_text, held + mapped);
    started = false;
    wake_at = INT64_MAX;
}

void program_ended(Machine* machine, bool awaited) { machine->world.program_ended(awaited); }

// What a machine's own work takes in time, and how much of it a run may have.
void Machine::step() {
    clock += dispatch_cost;
    if (++world.steps == world.options.stop_at) [[unlikely]] raise(SIGTRAP);
    if (++steps - steps_then > world.options.steps_per_second) [[unlikely]] {
        if (clock - second_began < one_second) {
            world.fail_with("host %s: a livelock: %llu threads dispatched within a virtual second",
                            name_text, (unsigned long long)(steps - steps_then));
            world.abandon(*this);
        }
        steps_then = steps;
        second_began = clock;
    }
    if (world.steps > world.options.most_steps) [[unlikely]] {
        world.fail_with("more than %llu steps", (unsigned long long)world.options.most_steps);
        world.abandon(*this);
    }
}

void Machine::audit() {
    if (!world.options.audit || world.steps % world.options.audit) return;
    const char* broken = first_broken();
    if (!broken) return;
    world.fail_with("host %s: %s", name_text, broken);
    world.abandon(*this);
}

// One dispatch is one step.
uint32_t Machine::choose_ready(const Candidates& ready) {
    step();
    audit();
    uint32_t chosen = 0;
    if (world.explorer) {
        if (ready.count > 1) chosen = world.explorer->choose(ready.count);
    } else if (ready.count > 1 || world.options.schedule == Schedule::pct) {
        switch (world.options.schedule) {
        case Schedule::production:
        case Schedule::native:
        case Schedule::any: break;
        case Schedule::random: chosen = world.chance.one_of(schedule, ready.count); break;
        case Schedule::pct:
            chosen = world.chance.decided(
                schedule, ready.count, [&](uint64_t) { return world.prioritized(*this, ready); });
        }
    }
    uint64_t id = ready.identity(ready, chosen);
    world.fold(id, number);
    if (world.options.verbose) world.note(this, "runs thread %u", unsigned(uint32_t(id)));
    return chosen;
}

// I5, I9: the loop's idea of its descriptors is the kernel's, and nobody waits for what has come
// without an event on its way that says so. And what the loop itself knows to be wrong.
const char* Machine::first_broken() const {
    if (const char* broken = first_broken_invariant()) return broken;
    size_t polled = 0;
    for (const Endpoint* each : descriptors) polled += each && each->poll_set;
    struct Question {
        const Machine& machine;
        size_t watched;
    } all{*this, 0};
    const char* broken = ask_about_watches(
        [](void* context, const Watched& watched) -> const char* {
            auto& question = *static_cast<Question*>(context);
            ++question.watched;
            const Endpoint* e = question.machine.at(watched.fd);
            if (!e || !e->poll_set || e->token != watched.token)
                return "a watched descriptor is another's, or nobody's";
            bool missed = (watched.reader && e->readable()) ||
                          (watched.writer && e->writable() && !e->nudges);
            return missed && !e->touched ? "a thread waits for what has come: its edge is lost" : nullptr;
        },
        &all);
    if (broken) return broken;
    return polled == all.watched ? nullptr : "the kernel polls what the loop does not watch";
}

// Time --------------------------------------------------------------------------------------------

int64_t Machine::due() const {
    if (!started || abandoned) return INT64_MAX;
    int64_t at = first_touched ? clock : wake_at;
    if (at == INT64_MAX) return at;
    if (at < clock) at = clock;
    return at > paused_until ? at : paused_until;
}

int Machine::wait(PollSet* set, PollEvent* events, int capacity, int64_t timeout) {
    if (int error = begin(Call::poller_wait, timeout)) return end(-error);
    if (world.options.schedule == Schedule::native) audit();
    wake_at = INT64_MAX;
    if (timeout >= 0) wake_at = Duration::add(clock, timeout - timeout / 1'000'000 * drift);
    bool idle = timeout != 0 && !first_touched;
    if (idle || paused_until > clock || world.horizon(*this) <= clock) strand.leave();
    wake_at = clock;
    return end(collect(set, events, capacity));
}

// What epoll does: each descriptor that something happened to is looked at anew, and told with all
// that is so of it now.
int Machine::collect(PollSet* set, PollEvent* events, int capacity) {
    if (world.chance.seldom(order, spurious_chance, 2) && descriptors.size()) {
        Endpoint* any = descriptors[world.chance.one_of(order, descriptors.size())];
        if (any && any->poll_set) {
            any->spurious = PollEvent::readable | PollEvent::writable;
            touch(*any);
        }
    }
    int told = 0;
    while (first_touched && told < capacity) {
        Endpoint& e = *first_touched;
        untouch(e);
        uint32_t ready = e.spurious;
        if (e.readable()) ready |= PollEvent::readable;
        if (e.writable()) ready |= PollEvent::writable;
        if (e.hung_up()) ready |= PollEvent::hangup | PollEvent::readable;
        e.spurious = 0;
        if (ready && e.poll_set == set) events[told++] = {e.token, ready};
    }
    if (world.options.schedule != Schedule::production) {
        for (int i = 0; i + 1 < told; ++i) {
            int other = i + int(world.chance.one_of(order, uint32_t(told - i)));
            PollEvent kept = events[i];
            events[i] = events[other];
            events[other] = kept;
        }
    }
    return told;
}

void Machine::touch(Endpoint& e) {
    if (e.touched || !e.poll_set) return;
    e.touched = true;
    e.next_touched = nullptr;
    *last_touched = &e;
    last_touched = &e.next_touched;
    if (world.running() != this && clock < world.time()) clock = world.time();
}

void Machine::untouch(Endpoint& e) {
    if (!e.touched) return;
    Endpoint** at = &first_touched;
    while (*at != &e) at = &(*at)->next_touched;
    if (!(*at = e.next_touched)) last_touched = at;
    e.touched = false;
}

// Calls -------------------------------------------------------------------------------------------

int Machine::begin(Call call, int64_t argument) {
    clock += call_cost;
    world.fold(uint64_t(call) + 1, uint64_t(argument));
    uint64_t before = count[int(call)]++;
    return fault && !sheltered ? fault(fault_context, call_names[int(call)], before) : 0;
}

template <class T> T Machine::end(T result) {
    world.fold(uint64_t(clock), uint64_t(result));
    return result;
}
template int Machine::end(int);
template ssize_t Machine::end(ssize_t);

// Memory ------------------------------------------------------------------------------------------

bool Machine::may_take(Call call, size_t size) {
    if (begin(call, 0)) return false;
    if (sheltered) return true;
    if (memory_limit && held + mapped + size > memory_limit) return false;
    return !world.trouble(trouble, world.faults.memory);
}

// The table's entries of time, chance, memory and readiness; calls.cpp has those of descriptors.
void Machine::fill_in() {
    System::name = "simulation";
    poller_name = "simulation";
    now = [](const System& s) {
        Machine& m = of(s);
        m.clock += clock_cost;
        if (m.world.options.schedule == Schedule::native) m.step();
        return m.local_time();
    };
    random = [](const System& s, void* out, size_t size) {
        for (size_t i = 0; i < size; i += 8) {
            uint64_t drawn = of(s).world.chance.noise(of(s).bits);
            memcpy(static_cast<char*>(out) + i, &drawn, size - i < 8 ? size - i : 8);
        }
    };
    choose = [](const System& s, Choice, uint32_t n) {
        Machine& m = of(s);
        return m.world.trouble(m.library, m.world.faults.library, n);
    };
    choose_thread = nullptr;
    if (world.options.schedule != Schedule::native)
        choose_thread = [](const System& s, const Candidates& r) { return of(s).choose_ready(r); };
    allocate = [](const System& s, size_t size) -> void* {
        if (!of(s).may_take(Call::allocate, size)) return nullptr;
        void* memory = real().allocate(real(), size);
        if (memory) of(s).held += size;
        return memory;
    };
    release = [](const System& s, void* memory, size_t size) {
        of(s).held -= size;
        real().release(real(), memory, size);
    };
    map = [](const System& s, size_t size) -> void* {
        if (!of(s).may_take(Call::map, size)) return nullptr;
        void* memory = real().map(real(), size);
        if (memory) of(s).mapped += size;
        return memory;
    };
    unmap = [](const System& s, void* memory, size_t size) {
        of(s).mapped -= size;
        real().unmap(real(), memory, size);
    };
    guard = [](const System& s, void* memory, size_t size, Guard kind) {
        if (int error = of(s).begin(Call::guard, int64_t(kind))) return of(s).end(-error);
        // As well as the real kernel can: which way that is must not make a difference here.
        if (real().guard(real(), memory, size, kind))
            (void)real().guard(real(), memory, size, Guard::mprotect);
        return of(s).end(0);
    };
    discard = [](const System&, void* memory, size_t size) { real().discard(real(), memory, size); };
    lowest_resident = [](const System&, const void* memory, size_t size) {
        return real().lowest_resident(real(), memory, size);
    };
    poller_open = [](const System& s, Poller** out) {
        if (int error = of(s).begin(Call::poller_open, 0)) return of(s).end(-error);
        *out = reinterpret_cast<Poller*>(new (zeroed(sizeof(PollSet))) PollSet{&of(s)});
        return of(s).end(0);
    };
    poller_close = [](const System& s, Poller* poller) {
        auto* set = reinterpret_cast<PollSet*>(poller);
        for (Endpoint* each : of(s).descriptors)
            if (each && each->poll_set == set) each->poll_set = nullptr;
        free(set);
    };
    poller_add = [](const System& s, Poller* poller, int fd, uint64_t token) {
        Machine& m = of(s);
        if (int error = m.begin(Call::poller_add, fd)) return m.end(-error);
        Endpoint* e = m.at(fd);
        auto* set = reinterpret_cast<PollSet*>(poller);
        if (!e) return m.end(-EBADF);
        if (e->poll_set == set) return m.end(-EEXIST);
        e->poll_set = set;
        e->token = token;
        m.touch(*e);
        return m.end(0);
    };
    poller_remove = [](const System& s, Poller* poller, int fd) {
        Machine& m = of(s);
        int error = m.begin(Call::poller_remove, fd);
        Endpoint* e = m.at(fd);
        if (!e) return m.end(-EBADF);
        if (e->poll_set != reinterpret_cast<PollSet*>(poller)) return m.end(-ENOENT);
        m.untouch(*e);
        e->poll_set = nullptr;
        return m.end(-error);
    };
    poller_rearm = nullptr;
    poller_wait = [](const System& s, Poller* poller, PollEvent* events, int capacity,
                     int64_t timeout) {
        return of(s).wait(reinterpret_cast<PollSet*>(poller), events, capacity, timeout);
    };
    // One OS thread for all machines.
    catch_faults = [](const System& s, bool (*handler)(void*)) {
        return of(s).world.catchers++ ? 0 : real().catch_faults(real(), handler);
    };
    drop_faults = [](const System& s) {
        if (--of(s).world.catchers == 0) real().drop_faults(real());
    };
    // Its OS thread ends when its program does, which takes the loop down itself.
    at_thread_end = [](const System&, void (*)(void*), void*) { return 0; };
    fill_in_descriptors();
}

}  // namespace copse::sim::detail

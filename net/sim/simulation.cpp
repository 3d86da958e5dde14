// A world's agenda, its judgement, and what its users see of it.
#include "net/sim/simulation.h"

#include <stdarg.h>
#include <stdio.h>

namespace copse::sim::detail {

namespace {

thread_local constinit Simulation* running_here = nullptr;

constexpr int64_t one_second = 1'000'000'000;
// Links that nobody said anything of; a machine's to itself.
constexpr int64_t usual_least = 50'000, usual_most = 500'000;
constexpr int64_t own_least = 1'000, own_most = 10'000;
// How long the canceled may take to come to their end.
constexpr int64_t farewell_length = 900 * one_second;
constexpr int farewell_turns = 1'000'000;

// What may be reset after a while.
constexpr uint64_t pack(uint32_t from, uint32_t to) { return uint64_t{from} << 32 | to; }

struct Cut {
    uint32_t from, to, bit;
};

}  // namespace

Simulation* current() { return running_here; }

Simulation::Simulation(uint64_t with_seed, const Options& with)
    : world{*this}, options{with}, seed{with_seed} {
    chance.begin(seed);
    user = Chance::stream(9);
    weather_ = Chance::stream(10);
    if (options.schedule == Schedule::any) {
        Stream kinds = Chance::stream(13);
        options.schedule = Schedule(chance.noise(kinds) % 3);
    }
    if (options.schedule == Schedule::pct) {
        // Where priorities change: nobody knows how long the run will be, so that is drawn too.
        Stream points = Chance::stream(11);
        uint64_t length = uint64_t{16} << chance.noise(points) % 14;
        for (unsigned i = 1; i < options.depth; ++i)
            change_points_.push(1 + chance.noise(points) % length);
    }
}

Simulation::~Simulation() {
    // What was on its way arrives no more, and nobody holds anybody any longer.
    while (Endpoint* e = first_endpoint_) {
        first_endpoint_ = e->next_made;
        e->~Endpoint();
        free(e);
    }
    for (Appointment* each : appointments_) {
        each->task.destroy(each->task.closure);
        free(each);
    }
    for (Promise* each : promises_) {
        if (each->question.destroy) each->question.destroy(each->question.closure);
        free(each);
    }
    for (Machine* each : machines_) {
        each->~Machine();
        free(each);
    }
}

// The agenda --------------------------------------------------------------------------------------

void Simulation::add(Event event) {
    event.order = order_++;
    if (event.to) take(*event.to);
    if (event.from) take(*event.from);
    agenda_.push(event);
    for (uint32_t at = agenda_.size() - 1; at > 0;) {
        uint32_t parent = (at - 1) / 2;
        if (!before(agenda_[at], agenda_[parent])) break;
        Event kept = agenda_[at];
        agenda_[at] = agenda_[parent];
        agenda_[parent] = kept;
        at = parent;
    }
}

Event Simulation::pop() {
    Event first = agenda_[0];
    Event last = agenda_.pop();
    if (agenda_.empty()) return first;
    uint32_t at = 0;
    for (;;) {
        uint32_t child = at * 2 + 1;
        if (child >= agenda_.size()) break;
        if (child + 1 < agenda_.size() && before(agenda_[child + 1], agenda_[child])) ++child;
        if (!before(agenda_[child], last)) break;
        agenda_[at] = agenda_[child];
        at = child;
    }
    agenda_[at] = last;
    return first;
}

void Simulation::schedule(Duration when, Duration period, Task task) {
    auto* appointment = ::new (zeroed(sizeof(Appointment))) Appointment{task, period.count()};
    appointments_.push(appointment);
    int64_t at = Duration::add(period.count() ? time() : epoch, when.count());
    add({at, 0, Event::task, 0, nullptr, nullptr, appointments_.size() - 1, 0});
}

int64_t Simulation::horizon(const Machine& but) const {
    int64_t nearest = agenda_.empty() ? INT64_MAX : agenda_[0].time;
    for (const Machine* each : machines_) {
        if (each == &but) continue;
        int64_t due = each->due();
        if (due < nearest) nearest = due;
    }
    return nearest;
}

void Simulation::happen_elsewhere(const Event& event) {
    switch (event.kind) {
    case Event::task: {
        Appointment& appointment = *appointments_[uint32_t(event.position)];
        appointment.task.call(appointment.task.closure);
        if (appointment.period) {
            Event again = event;
            again.time = time_ + appointment.period;
            add(again);
        }
        return;
    }
    case Event::resume:
        return cut(*machines_[uint32_t(event.position >> 32)], *machines_[uint32_t(event.position)],
                   false);
    case Event::second: return disturb_everything();
    default: return;
    }
}

// Machines ----------------------------------------------------------------------------------------

Machine& Simulation::machine(const char* name) {
    for (Machine* each : machines_)
        if (strcmp(each->name_text, name) == 0) return *each;
    auto* made = ::new (zeroed(sizeof(Machine))) Machine(*this, machines_.size(), name);
    machines_.push(made);
    return *made;
}

Link& Machine::link_to(const Machine& there) {
    if (there.number >= links.size()) links.resize(there.number + 1);
    Link& link = links[there.number];
    if (!link.known) {
        bool own = &there == this;
        link = {true, false, own ? own_least : usual_least, own ? own_most : usual_most, 0, 0};
    }
    return link;
}

void Simulation::program_ended(bool awaited) { awaited_ -= awaited; }

void Simulation::abandon(Machine& machine) {
    machine.abandoned = true;
    machine.strand.leave(true);
    __builtin_unreachable();
}

// Running -----------------------------------------------------------------------------------------

// Everybody who is waited for has returned, and the threads they have left behind have ended.
bool Simulation::over() const {
    if (awaited_ || !ever_awaited_) return false;
    for (const Machine* each : machines_)
        if (each->started && !each->serves && !each->abandoned) return false;
    return true;
}

// What is due first; false: nothing ever will be.
bool Simulation::advance() {
    Machine* next = nullptr;
    int64_t due = INT64_MAX;
    for (Machine* each : machines_) {
        if (int64_t at = each->due(); at < due) {
            due = at;
            next = each;
        }
    }
    int64_t nearest = agenda_.empty() ? INT64_MAX : agenda_[0].time;
    int64_t at = nearest <= due ? nearest : due;
    if (at == INT64_MAX) return false;
    if (at > end_) {
        if (ever_awaited_ || ending_)
            fail_with("not over after %lld virtual seconds", (long long)((end_ - epoch) / one_second));
        return false;
    }
    if (at > time_) time_ = at;
    if (nearest <= due) {
        Event event = pop();
        fold(uint64_t(event.kind) + 100, uint64_t(event.time));
        happen(event);
        if (event.to) release(*event.to);
        if (event.from) release(*event.from);
    } else {
        enter(*next);
    }
    return true;
}

void Simulation::enter(Machine& machine) {
    if (machine.clock < time_) machine.clock = time_;
    judge(false);
    if (failed && !ending_) return;
    fold(machine.number, uint64_t(machine.clock));
    running_ = &machine;
    machine.strand.enter();
    running_ = nullptr;
}

// What was promised: looked at often for what must always hold, in time for what must come.
void Simulation::judge(bool at_the_end) {
    for (Promise* each : promises_) {
        if (each->kept || !each->question.call) continue;
        each->question.call(each->question.closure);
        bool always = each->deadline == 0;
        if (always && !each->answer) fail_with("not always: %s", each->what);
        if (always) continue;
        each->kept = each->answer;
        if (!each->kept && (at_the_end || time_ > each->deadline))
            fail_with("not in time: %s", each->what);
    }
}

Promise& Simulation::promise(const char* what, Duration within) {
    int64_t deadline = within.count() ? Duration::add(time(), within.count()) : 0;
    auto* promise = ::new (zeroed(sizeof(Promise))) Promise{what, deadline, {}, true, false};
    promises_.push(promise);
    return *promise;
}

// Everybody who is left is canceled and comes to an end.
void Simulation::farewell() {
    ending_ = true;
    faults = {};
    heal();
    end_ = time_ + farewell_length;
    for (Machine* each : machines_) {
        if (!each->started || each->abandoned) continue;
        each->sheltered = true;
        each->fault = nullptr;
        each->strand.visit([](void*) { cancelall(); }, nullptr);
        each->sheltered = false;
        each->wake_at = time_;
        each->paused_until = 0;
    }
    auto all_ended = [&] {
        for (Machine* each : machines_)
            if (each->started && !each->abandoned) return false;
        return true;
    };
    for (int turns = 0; !all_ended(); ++turns)
        if (turns == farewell_turns || !advance()) break;
    for (Machine* each : machines_) {
        if (!each->started || each->abandoned) continue;
        fail_with("host %s: its program does not end, though canceled", each->name_text);
        each->abandoned = true;
    }
}

Outcome Simulation::run(void (*body)(void*, World&), void* context) {
    copse::check(!running_here, "one simulated world at a time on an OS thread");
    running_here = this;
    end_ = Duration::add(epoch, options.limit.count());
    body(context, world);
    while (!failed && !over() && advance()) {}
    if (!failed && ever_awaited_ && !over())
        fail_with("nothing can happen any more, and not everybody has ended");
    if (!failed) judge(true);
    Outcome outcome;
    outcome.elapsed = Duration::nanoseconds(time_ - epoch);
    farewell();
    // What the last of them did counts as well.
    if (!failed) judge(true);
    outcome.ok = !failed;
    outcome.seed = seed;
    outcome.steps = steps;
    outcome.trace = trace;
    outcome.faults = faults_met;
    memcpy(outcome.failure, failure, sizeof failure);
    running_here = nullptr;
    return outcome;
}

// Trouble -----------------------------------------------------------------------------------------

uint32_t Simulation::trouble(Stream& stream, double probability, uint32_t n) {
    if (probability <= 0 || ending_ || faults_met >= faults.budget) return 0;
    uint64_t scaled = probability >= 1 ? uint64_t{1} << 32 : uint64_t(probability * 4294967296.0);
    uint32_t drawn = chance.seldom(stream, scaled, n);
    faults_met += drawn != 0;
    return drawn;
}

void Simulation::set_faults(const Faults& wanted, bool swarm) {
    bool by_the_second = faults.pause > 0 || faults.partition > 0;
    faults = wanted;
    if (swarm) {
        for (double* each : {&faults.reset, &faults.lost, &faults.memory, &faults.descriptors,
                             &faults.aborted, &faults.short_write, &faults.library, &faults.pause,
                             &faults.partition}) {
            constexpr uint32_t strengths = 8;  // half of them: off
            uint32_t drawn = chance.one_of(weather_, strengths);
            *each *= drawn < strengths / 2 ? 0 : double(drawn - strengths / 2 + 1) / (strengths / 2);
        }
    }
    if (!by_the_second && (faults.pause > 0 || faults.partition > 0))
        add({time() + one_second, 0, Event::second, 0, nullptr, nullptr, 0, 0});
}

// Once a second: machines that stand still, links that are cut.
void Simulation::disturb_everything() {
    if (faults.pause <= 0 && faults.partition <= 0) return;
    constexpr uint32_t shares = 4;
    for (uint32_t i = 0; i < machines_.size(); ++i) {
        Machine& machine = *machines_[i];
        if (uint32_t share = trouble(weather_, faults.pause, shares + 1)) {
            note(&machine, "stands still");
            machine.paused_until = time_ + faults.pause_length.count() * share / shares;
        }
        for (uint32_t j = i + 1; j < machines_.size(); ++j) {
            uint32_t ways = trouble(weather_, faults.partition, 4);
            int64_t until = time_ + faults.partition_length.count() *
                                        (1 + chance.one_of(weather_, shares)) / shares;
            for (auto [a, b, bit] : {Cut{i, j, 1}, Cut{j, i, 2}}) {
                if (!(ways & bit) || machines_[a]->link_to(*machines_[b]).cut) continue;
                cut(*machines_[a], *machines_[b], true);
                add({until, 0, Event::resume, 0, nullptr, nullptr, pack(a, b), 0});
            }
        }
    }
    add({time_ + one_second, 0, Event::second, 0, nullptr, nullptr, 0, 0});
}

void Simulation::cut(Machine& from, Machine& to, bool is_cut) {
    note(&from, is_cut ? "is cut off from %s" : "reaches %s again", to.name_text);
    from.link_to(to).cut = is_cut;
}

void Simulation::heal() {
    for (Machine* each : machines_)
        for (Link& link : each->links) link.cut = false;
}

// Schedules ---------------------------------------------------------------------------------------

// The thread of highest priority. Priorities are drawn with the threads' names.
uint32_t Simulation::favourite(const Machine& machine, const Candidates& ready) const {
    Stream priorities = Chance::stream(12, machine.number);
    uint32_t best = 0;
    uint64_t highest = 0;
    for (uint32_t i = 0; i < ready.count; ++i) {
        uint64_t key = priorities.key + ready.identity(ready, i);
        Stream own{key, 0};
        uint64_t priority = chance.noise(own) | uint64_t{1} << 32;
        for (const Lowered& each : lowered_)
            if (each.key == key) priority = each.priority;
        if (priority > highest) {
            highest = priority;
            best = i;
        }
    }
    return best;
}

// At each change point whoever would have run falls below all others.
uint32_t Simulation::prioritized(const Machine& machine, const Candidates& ready) {
    for (uint32_t i = 0; i < change_points_.size(); ++i) {
        if (change_points_[i] != steps) continue;
        uint64_t id = ready.identity(ready, favourite(machine, ready));
        lowered_.push({Chance::stream(12, machine.number).key + id, change_points_.size() - i});
    }
    return favourite(machine, ready);
}

uint32_t Explorer::choose(uint32_t n) {
    if (at == path.size()) {
        path.push(0);
        widths.push(n);
    }
    widths[at] = n;
    uint32_t chosen = path[at++];
    deviations += chosen != 0;
    return chosen;
}

bool Explorer::next() {
    while (path.size() > at) path.pop(), widths.pop();
    while (!path.empty()) {
        uint32_t before = 0;
        for (uint32_t i = 0; i + 1 < path.size(); ++i) before += path[i] != 0;
        if (path.back() + 1 < widths.back() && before < most_deviations) {
            ++path.back();
            at = 0;
            deviations = 0;
            return true;
        }
        path.pop();
        widths.pop();
    }
    return false;
}

// Judgement ---------------------------------------------------------------------------------------

void Simulation::fail(const char* format, va_list words) {
    if (failed) return;
    failed = true;
    vsnprintf(failure, sizeof failure, format, words);
    note(running_, "FAILED: %s", failure);
}

void Simulation::fail_with(const char* format, ...) {
    va_list words;
    va_start(words, format);
    fail(format, words);
    va_end(words);
}

void Simulation::note(const Machine* machine, const char* format, ...) {
    if (!options.verbose) return;
    char text[256];
    va_list words;
    va_start(words, format);
    vsnprintf(text, sizeof text, format, words);
    va_end(words);
    int64_t at = time() - epoch;
    fprintf(stderr, "%6lld.%09lld %-10s %s\n", (long long)(at / one_second),
            (long long)(at % one_second), machine ? machine->name_text : "", text);
}

void* task_memory(size_t size) { return zeroed(size); }
void task_release(void* memory) { free(memory); }

}  // namespace copse::sim::detail

namespace copse::sim {

using detail::Simulation;

// Host --------------------------------------------------------------------------------------------

void Host::start(detail::Task task, detail::Launch launch, bool awaited) {
    machine_->start({task, launch, awaited});
}
const char* Host::name() const { return machine_->name_text; }
const char* Host::address() const { return machine_->address_text; }
void Host::pause(Duration length) {
    machine_->paused_until = Duration::add(machine_->world.time(), length.count());
}
void Host::setclock(Duration offset, int drift_ppm) {
    machine_->offset = offset.count();
    machine_->drift = drift_ppm;
}
void Host::setdescriptors(size_t limit) { machine_->descriptor_most = limit; }
void Host::setmemory(size_t bytes) { machine_->memory_limit = bytes; }
Status Host::status() const {
    Status status;
    if (machine_->started && machine_->world.running() != machine_)
        machine_->strand.visit([](void* out) { *static_cast<Status*>(out) = copse::status(); },
                               &status);
    else if (machine_->started)
        status = copse::status();
    return status;
}
size_t Host::descriptors() const { return machine_->open_count; }
size_t Host::memory() const { return machine_->held + machine_->mapped; }
uint64_t Host::steps() const { return machine_->steps; }
void Host::setfault(int (*fault)(void*, const char*, uint64_t), void* context) {
    machine_->fault = fault;
    machine_->fault_context = context;
}

// World -------------------------------------------------------------------------------------------

Host World::host(const char* name) { return Host{&simulation_->machine(name)}; }
uint64_t World::seed() const { return simulation_->seed; }
Duration World::elapsed() const {
    return Duration::nanoseconds(simulation_->time() - Simulation::epoch);
}
uint64_t World::steps() const { return simulation_->steps; }
uint64_t World::trace() const { return simulation_->trace; }
uint32_t World::choose(uint32_t n) { return simulation_->chance.one_of(simulation_->user, n); }
void World::schedule(Duration when, Duration period, detail::Task task) {
    simulation_->schedule(when, period, task);
}
bool* World::promise(const char* what, Duration within) {
    return &simulation_->promise(what, within).answer;
}
void World::answered_by(detail::Task question) { simulation_->last_promise().question = question; }
void World::setlatency(Host a, Host b, Duration least, Duration most) {
    for (auto [one, other] : {std::pair{a, b}, std::pair{b, a}}) {
        detail::Link& link = one.machine_->link_to(*other.machine_);
        link.least = least.count();
        link.most = most.count();
    }
}
void World::setbandwidth(Host a, Host b, uint64_t bytes_per_second) {
    a.machine_->link_to(*b.machine_).bandwidth = bytes_per_second;
    b.machine_->link_to(*a.machine_).bandwidth = bytes_per_second;
}
void World::partition(Host from, Host to, bool both_ways) {
    simulation_->cut(*from.machine_, *to.machine_, true);
    if (both_ways) simulation_->cut(*to.machine_, *from.machine_, true);
}
void World::heal(Host a, Host b) {
    simulation_->cut(*a.machine_, *b.machine_, false);
    simulation_->cut(*b.machine_, *a.machine_, false);
}
void World::heal() { simulation_->heal(); }
void World::setfaults(const Faults& faults, bool swarm) { simulation_->set_faults(faults, swarm); }
uint64_t World::faults() const { return simulation_->faults_met; }
void World::fail(const char* format, ...) {
    va_list words;
    va_start(words, format);
    simulation_->fail(format, words);
    va_end(words);
}
bool World::failed() const { return simulation_->failed; }

void fail(const char* format, ...) {
    va_list words;
    va_start(words, format);
    if (Simulation* simulation = detail::current()) {
        simulation->fail(format, words);
        va_end(words);
        return;
    }
    vfprintf(stderr, format, words);
    va_end(words);
    copse::check(false, "a simulated world that can fail");
}

World* inside() {
    Simulation* simulation = detail::current();
    return simulation ? &simulation->world : nullptr;
}

}  // namespace copse::sim

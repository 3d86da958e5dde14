// The life of a loop, and its turns.
#include "runtime/loop.h"

#include "arch/context.h"
#include "runtime/overflow.h"

#include <errno.h>

extern "C" copse::ExceptionState* __cxa_get_globals() noexcept __attribute__((weak));

namespace copse {

thread_local constinit Loop* Loop::current_ = nullptr;

namespace {
// Turns that threads get to come to their end in when the loop is taken down.
constexpr int farewell_turns = 10000;

// Events in a row that belong to nobody before the poller is built anew: a descriptor that was
// closed behind our back while a duplicate of it lives goes on reporting, for ever.
constexpr uint32_t ghosts_tolerated = 64;

// So many watches and who waits for them are in the processor's caches.
constexpr size_t watches_in_cache = 128;

// Looks before sleeping: at most this many, whatever the clock says.
constexpr int most_spins = 1000;
}  // namespace

// Life --------------------------------------------------------------------------------------------

Result<Loop*> Loop::make() {
    const System& system = system_to_use();
    void* room = system.map(system, sizeof(Loop));
    if (!room) return {nullptr, Error::no_memory};
    auto* made = ::new (room) Loop(system);
    sanitizer::keep(room, sizeof(Loop));
    current_ = made;
    if (Error error = made->open()) {
        made->close();
        current_ = nullptr;
        system.unmap(system, room, sizeof(Loop));
        return {nullptr, error};
    }
    return {made, {}};
}

Error Loop::open() {
    errno_ = &errno;
    exceptions_ = &no_exceptions_;
    if (&__cxa_get_globals) exceptions_ = __cxa_get_globals();
    system_->random(*system_, &random_state_, sizeof random_state_);
    // By chance, so that a handle that strays from loop to loop is almost surely stale there.
    uint32_t generation = uint32_t(random()) | 1u;
    blocks_.open(*system_, generation);
    watches_.open(*system_, generation);
    deadlines_.open(*system_);
    woken_.open(*system_);
    queue_.open(*system_);
    stacks_.open(*system_);
    forks_ = system_->fork_count(*system_);
    born_ = *forks_;
    home_.state = State::running;
    home_.details = &home_details_;
    time_ = now();
    if (int failed = system_->poller_open(*system_, &poller_))
        return Error::from_errno(-failed);
    auto end = [](void*) { (void)Loop::destroy(); };
    if (int failed = system_->at_thread_end(*system_, end, nullptr))
        return Error::from_errno(-failed);
    Overflow::catch_here(*system_);
    return Error::none;
}

void Loop::close() {
    for (uint32_t i = 0; i < blocks_.size(); ++i) {
        sanitizer::end(*blocks_.at(i));
        sanitizer::deregister_stack(blocks_.at(i)->stack.valgrind_id);
    }
    Overflow::drop_here(*system_);
    if (poller_) system_->poller_close(*system_, poller_);
    deadlines_.close();
    woken_.close();
    queue_.close();
    stacks_.close();
    watches_.close();
    blocks_.close();
    sanitizer::let_go(this, sizeof(Loop));
}

Error Loop::destroy() {
    Loop* loop = current_;
    if (!loop) return Error::none;
    if (loop->entered_) return Error::already_running;
    bool all_ended = loop->end_threads();
    if (loop->part) loop->part->end(*loop->part);
    current_ = nullptr;
    const System& system = *loop->system_;
    if (!all_ended) {
        // Somebody stands on those stacks: they are left alone, and all that hangs on them.
        system.poller_close(system, loop->poller_);
        return Error::deadlock;
    }
    loop->close();
    system.unmap(system, loop, sizeof(Loop));
    return Error::none;
}

// Cancels every thread and lets them come to their end. Those of a child of a fork are the parent's
// and are forgotten.
bool Loop::end_threads() {
    if (forked()) return true;
    entered_ = ending_ = true;
    cancel_all();
    for (int i = 0; i < farewell_turns && live_ && !forked(); ++i) turn(0);
    for (uint32_t i = 0; live_ && i < blocks_.size(); ++i) {
        ThreadBlock& thread = *blocks_.at(i);
        if (thread.exists() && thread.refusals < patience) report(&thread, ignores_cancellation);
    }
    entered_ = ending_ = false;
    return live_ == 0 || forked();
}

Error Loop::rejoin_after_fork() {
    if (!forked()) return Error::none;
    if (Error error = rejoin_poller()) return error;
    system_->random(*system_, &random_state_, sizeof random_state_);  // or both go on alike
    born_ = *forks_;
    return Error::none;
}

// A poller of our own in place of the old one, with every watch in it; or the old one stays.
Error Loop::rejoin_poller() {
    Poller* fresh = nullptr;
    if (int failed = system_->poller_open(*system_, &fresh)) return Error::from_errno(-failed);
    for (uint32_t i = 0; i < watches_.size(); ++i) {
        Watch& watch = *watches_.at(i);
        if (!watch.open()) continue;
        int failed = system_->poller_add(*system_, fresh, watch.fd, watch.token());
        if (failed == 0 || failed == -EBADF) continue;  // closed behind our back: nothing to watch
        system_->poller_close(*system_, fresh);
        return Error::from_errno(-failed);
    }
    system_->poller_close(*system_, poller_);
    poller_ = fresh;
    return Error::none;
}

// Running -----------------------------------------------------------------------------------------

Error Loop::run(Duration step_timeout) {
    if (entered_) return Error::already_running;
    if (forked()) return Error::forked;
    int64_t timeout = step_timeout > Duration{} ? step_timeout.count() : 0;
    entered_ = looping_ = true;
    for (;;) {
        while (!finished() && !forked()) turn(timeout);
        if (stopping_ || forked()) break;
        stop();
    }
    Error error = forked() ? Error::forked : live_ ? Error::deadlock : Error::none;
    if (error == Error::deadlock) report_deadlock();
    while (error != Error::forked && trim_stacks()) {}
    entered_ = looping_ = stopping_ = false;
    return error;
}

Result<bool> Loop::step(Duration timeout) {
    if (entered_) return {false, Error::already_running};
    if (forked()) return {false, Error::forked};
    entered_ = true;
    int64_t end = Duration::add(now(), timeout.count() > 0 ? timeout.count() : 0);
    int64_t left = timeout.count();
    bool ran = false;
    while (!finished() && !forked()) {
        ran = turn(left > 0 ? left : 0);
        if (ran || (left = end - now()) <= 0) break;
    }
    entered_ = false;
    return {ran, forked() ? Error::forked : Error::none};
}

bool Loop::finished() {
    return running_ == &home_ && nothing_ready() && !waiting_ && !timed_ && !unsent_ &&
           !drainables_;
}

void Loop::stop() {
    stopping_ = true;
    fire_all(stop_waiters_);
}

Error Loop::wait_for_stop() {
    if (Error error = admit()) return error;
    if (stopping_) return Error::none;
    Waiter waiter{running_};
    stop_waiters_.append(waiter);
    Error error = park({.what = "stop"}, &waiter);
    return stopping_ ? Error::none : error;
}

// A turn: true if anything ran.
bool Loop::turn(int64_t timeout) {
    uint64_t before = switches_;
    look(timeout);
    begin_turn();
    for (;;) {
        run_ready();
        if (forked()) break;  // the thread that forked has ended: the rest is the parent's
        drain();
        if (!turn_left_ && woken_.empty()) break;
        look(0);
    }
    return switches_ != before;
}

// Looks at the world: sleeps in the poller if there is nothing else to do, then makes ready whose
// descriptor or whose time has come. Readiness goes first: what has happened beats a deadline.
void Loop::look(int64_t timeout) {
    woken_.rewind();
    queue_.rewind();
    made_ready_ = &woken_;
    bool idle = nothing_ready() && !drainables_;
    if (idle || watched_) {
        int64_t length = idle ? sleep_length(timeout) : 0;
        if (length != 0 && trim_stacks()) length = 0;
        handle_all(wait_in_poller(length));
    } else {
        read_clock();
    }
    if (!deadlines_.empty()) fire_deadlines();
    made_ready_ = &queue_;
}

// How long the poller may sleep, in nanoseconds; negative: for ever.
int64_t Loop::sleep_length(int64_t timeout) {
    int64_t nearest = deadlines_.nearest();
    if (nearest == INT64_MAX) return timeout == INT64_MAX ? -1 : timeout;
    int64_t time = now();
    if (nearest <= time) return 0;
    int64_t left = nearest - time;
    return left < timeout ? left : timeout;
}

// Waits in the poller, having looked a few times first if recent waits were short and it was the
// same few that ended them: at one connection the wake-up of a sleeping processor is four fifths of
// a round trip. At many, who sleeps meanwhile finds more to do at once.
int Loop::wait_in_poller(int64_t length) {
    int count = 0;
    if (length == 0) {
        count = poll(0);
        end_turn(read_clock());
        return count;
    }
    int64_t asleep = now();
    end_turn(asleep);
    bool spins = spin_ > 0 && watched_ && typical_wait_ <= spin_ && company_.few() &&
                 !system_->choose_thread;
    if (spins) {
        int64_t most = length < 0 || length > spin_ ? spin_ : length;
        for (int i = 0; i < most_spins && (count = poll(0)) == 0; ++i)
            if (now() - asleep >= most) break;
        if (length > 0) {
            length -= now() - asleep;
            if (length < 0) length = 0;
        }
    }
    if (count == 0) count = poll(length);
    if (count > 0)
        if (Watch* watch = watch_of(events_[0])) company_.meet(watch->fd);
    turn_began_ = read_clock();
    int64_t waited = time_ - asleep, most = Duration::multiply(spin_, 8);
    if (waited > most) waited = most;
    typical_wait_ += (waited - typical_wait_) / 4;
    return count;
}

// One turn is over, the next begins.
void Loop::end_turn(int64_t time) {
    if (turn_began_) {
        int64_t took = time - turn_began_;
        turn_total_ += took;
        ++turns_timed_;
        if (took < turn_min_) turn_min_ = took;
        if (took > turn_max_) turn_max_ = took;
    }
    turn_began_ = time;
}

// What the kernel has to say now or within the timeout; an error counts as nothing, and is reported
// only if it can be none of the passing ones.
int Loop::poll(int64_t timeout) {
    ++polls_;
    int count = system_->poller_wait(*system_, poller_, events_, event_capacity, timeout);
    if (count >= 0) return count;
    if (count != -EINTR && count != -EAGAIN && count != -ENOMEM) {
        report(nullptr, Error::from_errno(-count).message());
        check(count != -EBADF && count != -EINVAL, "a poller that can be asked");
    }
    return 0;
}

namespace {

// Has the processor fetch so many cache lines. Inline at any price: see ReadyRing.
[[gnu::always_inline]] inline void warm(const void* first, size_t lines) {
    for (size_t i = 0; i < lines; ++i)
        __builtin_prefetch(static_cast<const char*>(first) + i * 64, 1);
}

// Who waits for a descriptor has a waiter on its stack, and above it the frames it will return
// through: those of a call into the library, and its own.
[[gnu::always_inline]] inline void warm_frames(const Waiter* waiter) {
    if (waiter) warm(waiter, 12);
}

}  // namespace

// In the order in which the poller told of them, unless a table chooses.
void Loop::handle_all(int count) {
    if (system_->choose) [[unlikely]] shuffle(count);
    if (watched_ > watches_in_cache) return handle_many(count);
    for (int i = 0; i < count; ++i)
        if (Watch* watch = open_watch_of(events_[i])) handle(*watch, events_[i].ready);
}

// Among many descriptors an event mostly waits for memory: its watch, then the stack of who waits, then
// that thread's block. Each is fetched while the events before it are handled.
void Loop::handle_many(int count) {
    constexpr int far_ahead = 12, ahead = 6;
    for (int i = 0; i < count && i < far_ahead; ++i) warm_watch(events_[i]);
    for (int i = 0; i < count; ++i) {
        if (i + far_ahead < count) warm_watch(events_[i + far_ahead]);
        if (i + ahead < count) warm_waiter(events_[i + ahead]);
        Watch* watch = open_watch_of(events_[i]);
        if (!watch) continue;
        warm_frames(watch->readers.first());
        handle(*watch, events_[i].ready);
    }
}

void Loop::shuffle(int count) {
    for (int i = 0; i + 1 < count; ++i) {
        PollEvent& chosen =
            events_[i + int(system_->choose(*system_, Choice::event, uint32_t(count - i)))];
        PollEvent event = chosen;
        chosen = events_[i];
        events_[i] = event;
    }
}

inline Watch* Loop::open_watch_of(const PollEvent& event) {
    Watch* watch = watch_of(event);
    if (!watch || !watch->open()) [[unlikely]] {
        haunt();
        return nullptr;
    }
    ghosts_ = 0;
    return watch;
}

// An event of a descriptor that is watched no more.
void Loop::haunt() {
    if (++ghosts_ < ghosts_tolerated) return;
    ghosts_ = 0;
    (void)rejoin_poller();
}

// A direction has one who waits for it, at most.
inline void Loop::handle(Watch& watch, uint32_t ready) {
    watch.ready |= ready;
    if (ready & (PollEvent::readable | PollEvent::hangup))
        if (Waiter* reader = watch.readers.first()) fire(*reader);
    if (ready & PollEvent::writable) {
        if (Waiter* writer = watch.writers.first()) fire(*writer);
        if (watch.on_writable) queue(*watch.on_writable);
    }
}

void Loop::fire_deadlines() {
    while (ThreadBlock* thread = deadlines_.pop_due(time_)) {
        if (thread->state != State::parked) continue;
        thread->timed_out = true;
        make_ready(*thread);
    }
}

// The end of the turn ------------------------------------------------------------------------------

void Loop::queue(Drainable& item) {
    if (item.queued) return;
    if (!drainables_) end_flow();
    item.queued = true;
    item.next = nullptr;
    *last_drainable_ = &item;
    last_drainable_ = &item.next;
}

void Loop::unqueue(Drainable& item) {
    if (!item.queued) return;
    Drainable** at = &drainables_;
    while (*at != &item) at = &(*at)->next;
    if (!(*at = item.next)) last_drainable_ = at;
    item.queued = false;
}

void Loop::drain() {
    while (Drainable* item = drainables_) {
        if (!(drainables_ = item->next)) last_drainable_ = &drainables_;
        item->queued = false;
        if (item->next) warm(item->next, 3);
        part->drain(*item);
    }
}

uint64_t Loop::random() {
    // splitmix64: a counter, well stirred.
    uint64_t z = random_state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void* Loop::allocate(size_t size) {
    ++allocations_;
    return system_->allocate(*system_, size);
}

}  // namespace copse

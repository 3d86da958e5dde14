// Loop: the scheduler of one OS thread.
//
// A turn:   look (poll, fire deadlines)  ->  run the threads that were ready  ->  drain what they
//           sent  ->  again, until nothing is left to do.
//
// A thread that has to wait switches straight to the next thread of the turn; the loop's own stack
// ("home") runs only between turns. Two rings hold the ready threads: `woken_`, made ready by the
// poller or a deadline, which go first; and `queue_`, whose front belongs to this turn.
// What threads make ready meanwhile gathers behind them, for the next turn: so a turn ends, and a
// thread that yields for ever starves nobody. A turn with nothing to drain flows into the next one
// without asking the kernel, until the budget of dispatches is spent: a ready descriptor waits for at
// most that many, and for those that the last look has woken.
//
// Invariants:
//  - leave() is the only way out of a thread and run_ready() the only way in; both go through
//    change_stack(), the one place where stacks change. A thread that has ended leaves for ever, and
//    whoever comes next is entered from where its stack began.
//  - Nothing is woken but during a look, so what was granted of queue_ needs no second thought.
//  - `running_` is the thread on the processor, or &home_.
//  - Only the loop's own OS thread touches it.
#pragma once

#include "runtime/deadlines.h"
#include "runtime/ready_ring.h"
#include "runtime/sanitizer.h"
#include "runtime/slot_table.h"
#include "runtime/stacks.h"
#include "runtime/text.h"
#include "runtime/watch.h"

#include <copse/loop.h>

namespace copse {

namespace detail {
void end_locals(LocalValue*& locals);
}

// What a layer above keeps per loop. drain() does a Drainable's work, on the loop's stack: it must not
// park. end() runs when the loop is taken down, threads gone. first_broken() answers for its
// invariants as Invariants does for the loop's.
struct LoopPart {
    void (*drain)(Drainable&) = nullptr;
    void (*end)(LoopPart&) = nullptr;
    const char* (*first_broken)(LoopPart&) = nullptr;
};

// What a thread waits for, besides its waiters.
struct Wait {
    const char* what;          // a word for dump()
    int64_t deadline = INT64_MAX;
    int descriptor = -1;
};

// Whether it is always the same few descriptors that have something to say, of late.
class Company {
  public:
    void meet(int fd) {
        bool known = false;
        for (int each : met_) known |= each == fd;
        if (!known) met_[next_++ % size] = fd;
        strangers_ += ((known ? 0 : 256) - strangers_) / 8;
    }
    bool few() const { return strangers_ < 128; }

  private:
    static constexpr uint32_t size = 4;
    int met_[size] = {-1, -1, -1, -1};
    uint32_t next_ = 0;
    int strangers_ = 0;  // their share, of 256, exponentially forgotten
};

class Loop {
  public:
    // Threads dispatched before the kernel is asked for readiness again.
    static constexpr uint32_t dispatch_budget = 64;

    // Parking calls of a canceled thread before it is reported as one that ignores it.
    static constexpr uint16_t patience = 1000;
    static constexpr const char* ignores_cancellation = "ignores its cancellation";

    // The loop of this OS thread; null: none was made.
    static Loop* current() { return current_; }
    // The same, made now if need be.
    static Result<Loop*> obtain() {
        if (Loop* mine = current_) return {mine, {}};
        return make();
    }
    static Error destroy();

    const System& system() const { return *system_; }

    // Threads ------------------------------------------------------------------------------------
    ThreadBlock* running_thread() { return running_ == &home_ ? nullptr : running_; }
    ThreadBlock* find(Thread handle) {
        ThreadBlock* block =
            blocks_.find(detail::Access::slot(handle), detail::Access::generation(handle));
        return block && block->exists() ? block : nullptr;
    }
    Result<ThreadBlock*> reserve(const ThreadOptions&);
    void* place_closure(ThreadBlock&, size_t size, size_t alignment);  // null: too large
    void launch(ThreadBlock&);
    void abandon(ThreadBlock&);
    void cancel(ThreadBlock&);
    void cancel_all();
    uint32_t threads_made() const { return blocks_.size(); }
    ThreadBlock& thread_at(uint32_t slot) { return *blocks_.at(slot); }

    // Waiting ------------------------------------------------------------------------------------
    // Whether the running thread may wait: not_a_thread, forked, canceled (after letting others
    // run) or timeout (of an enclosing scope). Every call that parks begins with this.
    Error admit() {
        bool plain = running_ != &home_ && !forked() && !running_->canceled &&
                     running_->scope_end == INT64_MAX;
        return plain ? Error::none : admit_slowly();
    }
    // Parks the running thread until something wakes it. Its waiters, already in their lists, hang
    // together by their siblings. none: a source fired; else canceled or timeout. The caller looks
    // at its source first: what has happened beats a cancellation, and that beats a deadline.
    Error park(const Wait& wait, Waiter* waiters = nullptr) {
        ThreadBlock& self = *running_;
        int64_t deadline = wait.deadline < self.scope_end ? wait.deadline : self.scope_end;
        self.timed_out = false;
        self.waiters = waiters;
        self.waits_for = wait.what;
        self.waits_on = wait.descriptor;
        self.since = time_;
        self.state = State::parked;
        waiting_ += wait.descriptor >= 0;
        if (self.canceled) [[unlikely]] make_ready(self);  // since it was admitted
        if (deadline == INT64_MAX) {
            leave(self);
        } else {
            deadlines_.arm(self, deadline);
            ++timed_;
            leave(self);
            deadlines_.disarm(self);
            --timed_;
        }
        waiting_ -= wait.descriptor >= 0;
        if (self.canceled) return Error::canceled;
        return self.timed_out ? Error::timeout : Error::none;
    }
    // Fires one source: its thread leaves all its lists and becomes ready.
    void fire(Waiter& waiter) {
        waiter.fired = true;
        make_ready(*waiter.thread);
    }
    void fire_all(WaitList& list) {
        while (Waiter* waiter = list.first()) fire(*waiter);
    }
    // A parked one. The first source takes all of its waiters out of their lists: no other can
    // find it.
    void make_ready(ThreadBlock& thread) {
        for (Waiter* each = thread.waiters; each; each = each->sibling) each->unlink();
        thread.waiters = nullptr;
        thread.state = State::ready;
        made_ready_->append(thread);
    }
    Error yield() {
        ThreadBlock& self = *running_;
        self.state = State::ready;
        queue_.append(self);
        leave(self);
        if (self.canceled) [[unlikely]] return Error::canceled;
        return Error::none;
    }
    // Called by work that goes on without ever parking, once per system call: yields now and then.
    void pace() {
        if (running_ == &home_) return;
        if (paced_at_ != switches_) {
            paced_at_ = switches_;
            unparked_calls_ = 0;
        }
        if (++unparked_calls_ >= dispatch_budget) (void)yield();
    }
    void unpark(ThreadBlock& thread) {
        thread.permit = true;
        if (thread.state == State::parked && thread.awaits_permit) make_ready(thread);
    }

    // Descriptors --------------------------------------------------------------------------------
    // Registers a descriptor; ready: what to believe until the poller speaks.
    Result<Watch*> watch(int fd, uint32_t ready);
    // Wakes whoever waits and takes it out of the poller; the descriptor stays open.
    void unwatch(Watch&);
    // The kernel had no more for this direction: its bit waits for the next event.
    void exhausted(Watch& watch, uint32_t bit) {
        watch.ready &= ~bit;
        if (system_->poller_rearm) system_->poller_rearm(*system_, poller_, watch.fd, bit);
    }
    // Wakes whoever waits on it, for nothing: they look again at what they waited for.
    void disturb(Watch&);
    // Parks until the direction may be ready: returns at once while its bit is set. The caller has
    // been admitted. busy, canceled, timeout; closed when the watch went away meanwhile.
    Error wait_ready(Watch&, Direction, const Wait&);
    // The same for somebody else's descriptor and either direction; got: which are ready.
    Error wait_either(Watch&, Events wanted, const Wait&, Events& got);
    bool forked() const { return *forks_ != born_; }
    Error rejoin_after_fork();

    // Whether to go a way that is as right as the usual one and seldom gone. Never, in production.
    bool oddly() { return system_->choose && system_->choose(*system_, Choice::way, 2); }

    // The end of the turn ------------------------------------------------------------------------
    void queue(Drainable&);
    void unqueue(Drainable&);
    // Bytes that wait in the layer above; they keep the loop from being finished.
    void count_unsent(ptrdiff_t change) { unsent_ += size_t(change); }
    size_t unsent() const { return unsent_; }
    void count_lost(size_t bytes) { lost_ += bytes; }

    // Running ------------------------------------------------------------------------------------
    Error run(Duration step_timeout);
    Result<bool> step(Duration timeout);
    bool busy_running() const { return entered_; }
    bool in_loop() const { return looping_; }
    bool finished();
    void stop();
    bool stopping() const { return stopping_; }
    Error wait_for_stop();

    int64_t now() { return system_->now(*system_); }
    int64_t read_clock() { return time_ = now(); }
    uint64_t random();
    void set_spin(int64_t ns) { spin_ = ns; }

    // Reports and parts --------------------------------------------------------------------------
    void report(ThreadBlock* thread, const char* what);
    void set_handler(const Handler& handler) { handler_ = handler; }
    Status status();
    void dump(int fd);
    void count_allocation() { ++allocations_; }
    LoopPart* part = nullptr;  // net's

    // Memory of the layer above, counted.
    void* allocate(size_t size);
    void release(void* memory, size_t size) { system_->release(*system_, memory, size); }

  private:
    friend struct Overflow;
    friend struct Invariants;
    friend class Strand;
    friend struct Inspection;  // of the tests

    Error admit_slowly();
    static Result<Loop*> make();
    explicit Loop(const System& system) : system_{&system} {}
    Error open();
    void close();
    bool end_threads();
    void report_deadlock();

    // Switching ----------------------------------------------------------------------------------
    static void* begin_thread(void* block);
    void* finish(ThreadBlock&);
    void leave(ThreadBlock& self);
    void leave_to_picked(ThreadBlock& self);
    void* leave_for_ever(ThreadBlock& self);
    void run_ready();
    void dispatch(ThreadBlock& from, ThreadBlock& to);
    void enter(ThreadBlock& next);
    bool special(const ThreadBlock& from, const ThreadBlock& to) const;
    void change_stack(ThreadBlock& from, ThreadBlock& to, bool ends);
    void change_stack_and_more(ThreadBlock& from, ThreadBlock& to);
    void change_special(ThreadBlock& from, ThreadBlock& to);
    [[noreturn]] void die_of_overflow(ThreadBlock&);
    ThreadBlock& pick();
    ThreadBlock& pick_from_many();
    ThreadBlock& granted();
    void end_flow();
    ThreadBlock& take_from(ReadyRing&, uint32_t count);
    void retire(ThreadBlock&);
    bool make_room(uint32_t threads);
    bool trim_stacks();
    ThreadBlock* take_block(uint32_t size_class);
    ThreadBlock* make_block(uint32_t size_class);

    // Turns --------------------------------------------------------------------------------------
    bool turn(int64_t timeout);
    // What has gathered for the next turn is this one's now.
    void begin_turn() {
        turn_left_ = queue_.count();
        ++turns_;
    }
    void look(int64_t timeout);
    int64_t sleep_length(int64_t timeout);
    int poll(int64_t timeout);
    int wait_in_poller(int64_t timeout);
    void end_turn(int64_t time);
    Watch* watch_of(const PollEvent& event) {
        return watches_.find(uint32_t(event.token), uint32_t(event.token >> 32));
    }
    void handle_all(int count);
    void handle_many(int count);
    void shuffle(int count);
    Watch* open_watch_of(const PollEvent&);
    void haunt();
    void handle(Watch&, uint32_t ready);
    [[gnu::always_inline]] void warm_watch(const PollEvent& event) {
        watches_.warm(uint32_t(event.token));
    }
    [[gnu::always_inline]] void warm_waiter(const PollEvent& event) {
        Watch* watch = watch_of(event);
        if (watch) __builtin_prefetch(watch->readers.first());
    }
    void fire_deadlines();
    void drain();
    bool nothing_ready() const { return woken_.empty() && queue_.empty(); }
    Error rejoin_poller();

    static thread_local constinit Loop* current_;

    // What a dispatch touches.
    ThreadBlock* running_ = &home_;
    ReadyRing woken_;
    ReadyRing queue_;
    uint32_t granted_ = 0;             // dispatches from queue_ that pick() need not be asked for
    uint32_t turn_left_ = 0;           // what belongs to this turn behind those
    uint32_t budget_ = 0;              // dispatches beyond those until the next look
    ReadyRing* made_ready_ = &queue_;  // where make_ready() puts threads: woken_ during a look
    bool looping_ = false;             // in run(): a turn may flow into the next
    Drainable* drainables_ = nullptr;
    Drainable** last_drainable_ = &drainables_;
    int* errno_ = nullptr;
    ExceptionState* exceptions_ = nullptr;  // the C++ runtime's, of this OS thread
    ExceptionState no_exceptions_;          // stands in where there is no C++ runtime
    uint64_t switches_ = 0;
    uint64_t turns_ = 0;
    uint64_t paced_at_ = 0;        // what switches_ was at the last pace()
    uint32_t unparked_calls_ = 0;  // by pace(), since then
    uint32_t born_ = 0;            // what *forks_ was when the loop was made
    const uint32_t* forks_ = nullptr;

    const System* system_;
    Deadlines deadlines_;
    Poller* poller_ = nullptr;
    SlotTable<ThreadBlock> blocks_;
    SlotTable<Watch> watches_;
    Stacks stacks_;
    ThreadBlock* warm_[Stacks::classes] = {};  // blocks to use again, last used first
    ThreadBlock* cold_[Stacks::classes] = {};  // the same, their stacks' pages given back
    uint32_t warm_count_ = 0;
    Watch* free_watches_ = nullptr;
    ThreadBlock home_;
    ThreadDetails home_details_ = {};
    ThreadBlock* bare_ = nullptr;              // blocks that could not be given a stack
    ThreadBlock* left_ = nullptr;              // whose stack was left last (told to sanitizers)
    sanitizer::Bounds home_bounds_;
    uint64_t home_fp_ = 0;

    size_t live_ = 0;        // threads that have been launched and not finished
    size_t waiting_ = 0;     // parked on descriptors
    size_t timed_ = 0;       // parked with a deadline
    size_t watched_ = 0;     // registered descriptors
    size_t unsent_ = 0;
    uint64_t lost_ = 0;
    size_t allocations_ = 0;
    uint64_t polls_ = 0;
    uint32_t ghosts_ = 0;    // events in a row that belong to no watch

    bool entered_ = false;   // within run(), step() or destroy()
    bool ending_ = false;    // within destroy(): a thread is canceled from its first breath
    bool stopping_ = false;
    WaitList stop_waiters_;
    uint64_t random_state_ = 0;

    int64_t spin_ = 20000;
    Company company_;           // who ended recent waits
    int64_t typical_wait_ = 0;  // of recent waits, exponentially forgotten
    int64_t time_ = 0;          // the clock as last read, by every look
    uint64_t asked_at_ = UINT64_MAX;  // what switches_ was when a scope was last asked about
    int64_t turn_began_ = 0;
    int64_t turn_min_ = INT64_MAX, turn_max_ = 0, turn_total_ = 0;
    uint64_t turns_timed_ = 0;

    Handler handler_;

    static constexpr int event_capacity = 256;
    PollEvent events_[event_capacity];
};

inline Error Loop::wait_ready(Watch& watch, Direction direction, const Wait& wait) {
    bool reads = direction == Direction::read;
    uint32_t bit = reads ? PollEvent::readable : PollEvent::writable;
    WaitList& list = reads ? watch.readers : watch.writers;
    if (watch.ready & bit) return Error::none;
    if (!list.empty()) return Error::busy;
    uint32_t generation = watch.generation;
    Waiter waiter{running_};
    list.append(waiter);
    Error error = park({wait.what, wait.deadline, watch.fd}, &waiter);
    if (watch.generation != generation) return Error::closed;
    return watch.ready & bit ? Error::none : error;
}

// Bytes of the stack that have ever been used, as far as touched memory tells.
size_t stack_use(const System&, const Stack&);

}  // namespace copse

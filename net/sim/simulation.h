// Simulation: a world at work: the agenda of what is to happen, and whose turn it is.
//
// Time goes from event to event. Whatever is due first happens next: a packet arrives, a machine
// that was asleep wakes, a machine that is busy goes on. Machines share one OS thread, and one at a
// time is entered; what it does to others travels by packets and takes time.
//
// Invariants:
//  - Nothing on the agenda lies before `time_`, and `time_` never goes back.
//  - Everything that has an effect on a program is folded into the trace, and depends on the seed
//    alone.
#pragma once

#include "net/sim/machine.h"

#include <stdarg.h>

namespace copse::sim::detail {

struct Event {
    enum Kind : uint8_t {
        syn,        // from asks for a connection to its remote name
        syn_ack,    // to is connected
        confirm,    // to, the accepting side, may be accepted
        data,       // the bytes of from up to `position` are there
        fin,        // from has sent everything
        ack,        // to, the sender, hears of `position`, and of room up to `edge`
        reset,      // to is reset
        retry_syn,
        probe,      // keepalive
        nudge,      // to is writable after all
        task,
        resume,     // a fault that lasts is over; position: which
        second,     // faults that come by the second
    };

    int64_t time;
    uint64_t order;
    Kind kind;
    uint8_t attempt;
    Endpoint* to;
    Endpoint* from;
    uint64_t position;
    uint64_t edge;
};

struct Appointment {
    Task task;
    int64_t period;
};

struct Promise {
    const char* what;
    int64_t deadline;  // 0: always
    Task question;
    bool answer;
    bool kept;
};

// The answers that an exhaustive search wants given, and the questions it met.
struct Explorer {
    Array<uint32_t> path;    // what to answer, question by question
    Array<uint32_t> widths;  // among how many
    uint32_t at = 0;
    unsigned deviations = 0;
    unsigned most_deviations = 0;
    uint32_t choose(uint32_t n);
    bool next();  // on to the next path; false: that was all
};

class Simulation {
  public:
    Simulation(uint64_t seed, const Options&);
    ~Simulation();

    Outcome run(void (*body)(void*, World&), void* context);

    World world;
    Chance chance;
    Options options;
    uint64_t seed;
    Explorer* explorer = nullptr;

    // Time --------------------------------------------------------------------------------------
    int64_t time() const { return running_ ? running_->clock : time_; }
    int64_t horizon(const Machine& but) const;  // when something else happens
    void add(Event);
    void schedule(Duration when, Duration period, Task);
    static constexpr int64_t epoch = 1'000'000'000;

    // Machines ----------------------------------------------------------------------------------
    Machine& machine(const char* name);
    uint32_t machines() const { return machines_.size(); }
    const Machine& machine_at(uint32_t i) const { return *machines_[i]; }
    Machine* owner_of(const Name&, Machine& asking);
    Machine* running() { return running_; }
    void program_ended(bool awaited);
    void program_began(bool awaited) { awaited_ += awaited; ever_awaited_ |= awaited; }
    uint64_t steps = 0;
    int catchers = 0;  // machines whose loops want to hear of memory faults
    [[noreturn]] void abandon(Machine&);

    // The network: tcp.cpp ----------------------------------------------------------------------
    Endpoint& make_endpoint(Machine&, int family);
    void take(Endpoint& e) { ++e.references; }
    void release(Endpoint&);
    void join(Endpoint& a, Endpoint& b);
    void part(Endpoint&);
    void transmit(Event::Kind, Endpoint& from, Endpoint& to, uint64_t position,
                  uint64_t bytes = 0);
    void push(Endpoint&);
    void wake(Endpoint&);
    void end_of_sending(Endpoint&);
    void die(Endpoint&, int error);
    void reset_peer(Endpoint&);
    void close(Endpoint&);
    void close_unix(Endpoint&);
    void begin_connecting(Endpoint&);
    ssize_t send(Endpoint&, const iovec*, int count);
    ssize_t receive(Endpoint&, char* out, size_t size);
    Endpoint* find_listener(Machine&, const Name&);
    void start_probing(Endpoint&);

    // Trouble -----------------------------------------------------------------------------------
    void set_faults(const Faults&, bool swarm);
    // Whether a fault of this chance happens now; 0, or one of 1..n-1.
    uint32_t trouble(Stream&, double chance, uint32_t n = 2);
    Faults faults;
    uint64_t faults_met = 0;
    void heal();
    void cut(Machine& from, Machine& to, bool is_cut);

    // Judgement ---------------------------------------------------------------------------------
    void fold(uint64_t a, uint64_t b) { trace = mix(trace ^ a) + b * 0x9e3779b97f4a7c15u; }
    uint64_t trace = 0;
    void fail(const char* format, va_list);
    void fail_with(const char* format, ...) __attribute__((format(printf, 2, 3)));
    void note(const Machine*, const char* format, ...) __attribute__((format(printf, 3, 4)));
    bool failed = false;
    char failure[256] = {};
    Promise& promise(const char* what, Duration within);
    Promise& last_promise() { return *promises_.back(); }
    Stream user;

    // Schedules.
    uint32_t prioritized(const Machine&, const Candidates&);
    uint32_t favourite(const Machine&, const Candidates&) const;

  private:
    bool over() const;
    bool advance();
    void enter(Machine&);
    void happen(const Event&);
    void happen_elsewhere(const Event&);  // what is no packet
    void judge(bool at_the_end);
    void farewell();
    Event pop();
    static bool before(const Event& a, const Event& b) {
        return a.time != b.time ? a.time < b.time : a.order < b.order;
    }

    // The network, as packets arrive.
    void arrive_syn(const Event&);
    void arrive_syn_ack(const Event&);
    void arrive_confirm(const Event&);
    void arrive_data(const Event&);
    void arrive_fin(const Event&);
    void arrive_ack(const Event&);
    void arrive_reset(Endpoint&);
    void probe(Endpoint&);
    void retry_syn(const Event&);
    bool lost_for_good(Endpoint& from);
    void disturb_everything();

    friend struct Machine;
    Array<Event> agenda_;  // a heap
    uint64_t order_ = 0;
    int64_t time_ = epoch;
    int64_t end_ = INT64_MAX;
    Array<Machine*> machines_;
    Machine* running_ = nullptr;
    uint32_t awaited_ = 0;
    bool ever_awaited_ = false;
    bool ending_ = false;
    Array<Appointment*> appointments_;
    Array<Promise*> promises_;
    Stream weather_;
    Endpoint* first_endpoint_ = nullptr;
    Array<uint64_t> change_points_;  // of Schedule::pct
    struct Lowered {
        uint64_t key;
        uint64_t priority;
    };
    Array<Lowered> lowered_;
};

// The world whose machine runs on this OS thread; null: none.
Simulation* current();

}  // namespace copse::sim::detail

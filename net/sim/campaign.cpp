// Campaigns: many seeds in many processes, and what is left of a failure when it has been made small.
#include "net/sim/replay.h"
#include "net/sim/simulation.h"

#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

namespace copse::sim {

namespace detail {

namespace {

constexpr unsigned most_workers = 64;
constexpr unsigned most_marks = 256;
constexpr size_t mark_length = 56;
constexpr uint32_t most_recorded = 1u << 22;
constexpr int shrinking_seconds = 30;
constexpr int shrinking_runs = 2000;

struct Mark {
    char name[mark_length];
    uint64_t reached;
};

// What a campaign's processes tell each other. Numbers are only ever added to.
struct Board {
    uint64_t next, done, steps, faults, marks_used;
    int64_t elapsed;
    double until;  // no seed is begun later
    Mark marks[most_marks];
    uint64_t at_work[most_workers];  // each worker's seed; 0: none
    uint32_t failed;                 // who sets it first describes the failure
    uint32_t described;
    Outcome failure;
};

Mark own_marks[most_marks];
uint64_t own_marks_used = 0;
Board* board = nullptr;

template <class T> T add(T& to, T what) { return __atomic_fetch_add(&to, what, __ATOMIC_RELAXED); }
template <class T> T get(const T& from) { return __atomic_load_n(&from, __ATOMIC_ACQUIRE); }

void* shared(size_t size) {
    void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    copse::check(memory != MAP_FAILED, "memory for the simulator itself");
    return memory;
}

double seconds() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return double(time.tv_sec) + double(time.tv_nsec) / 1e9;
}

uint64_t number_of(const char* variable, uint64_t otherwise) {
    const char* text = getenv(variable);
    return text && *text ? strtoull(text, nullptr, 0) : otherwise;
}

struct Body {
    void (*call)(void*, World&);
    void* context;
};

// A run in a process of its own, and what was answered in it: shared, for it may crash.
struct Attempt {
    Outcome outcome;
    uint32_t answers;
    Answer recorded[most_recorded];
};

Outcome run_once(uint64_t seed, const Options& options, const Body& body, const Replay* replay,
                 Attempt* room) {
    Simulation simulation{seed, options};
    if (replay) simulation.chance.replay(replay->answers.begin(), replay->answers.size());
    if (room) simulation.chance.record(room->recorded, most_recorded, &room->answers);
    return simulation.run(body.call, body.context);
}

void describe(const Outcome& outcome) {
    double length = double(outcome.elapsed.count()) / 1e9;
    fprintf(stderr, "seed %llu: %s%s%s at step %llu, after %.6f virtual seconds; trace %016llx\n",
            (unsigned long long)outcome.seed, outcome.ok ? "ok" : "failed: ", outcome.failure,
            outcome.ok ? ", ended" : "", (unsigned long long)outcome.steps, length,
            (unsigned long long)outcome.trace);
}

// The words that started this program, as one would type them.
void print_command() {
    FILE* file = fopen("/proc/self/cmdline", "r");
    if (!file) return (void)fputs("<this program>", stderr);
    bool first = true;
    char line[4096];
    size_t size = fread(line, 1, sizeof line - 1, file);
    fclose(file);
    for (size_t i = 0; i < size; i += strlen(line + i) + 1) {
        line[size] = 0;
        fprintf(stderr, "%s%s", first ? "" : " ", line + i);
        first = false;
    }
}

void describe_death(int status, Outcome& outcome) {
    char* out = outcome.failure;
    size_t room = sizeof outcome.failure;
    if (!WIFSIGNALED(status)) snprintf(out, room, "the program ended by itself");
    else if (WTERMSIG(status) == SIGALRM) snprintf(out, room, "the program hangs between two steps");
    else snprintf(out, room, "the program died: %s", strsignal(WTERMSIG(status)));
}

// Failures are the same if they say the same but for numbers.
bool alike(const char* a, const char* b) {
    for (;; ++a, ++b) {
        while (isxdigit(*a) && isdigit(*a)) ++a;
        while (isxdigit(*b) && isdigit(*b)) ++b;
        if (*a != *b) return false;
        if (!*a) return true;
    }
}

Outcome attempt(Attempt& room, uint64_t seed, const Options& options, const Body& body,
                const Replay* replay, bool record) {
    room.outcome = {};
    room.answers = 0;
    fflush(nullptr);
    pid_t child = fork();
    if (child == 0) {
        if (!freopen("/dev/null", "w", stderr)) _exit(1);
        alarm(shrinking_seconds);
        room.outcome = run_once(seed, options, body, replay, record ? &room : nullptr);
        _exit(0);
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    Outcome outcome = room.outcome;
    if (!WIFEXITED(status) || WEXITSTATUS(status)) {
        outcome.ok = false;
        outcome.seed = seed;
        describe_death(status, outcome);
    }
    return outcome;
}

// Leaves out of a failure's answers what it does not need, as long as it stays a failure of the same
// kind: first whole streams, then halves, quarters, ... of what is left.
class Shrinker {
  public:
    Shrinker(const Options& options, const Body& body, uint64_t seed)
        : options_{options}, body_{body}, room_{*static_cast<Attempt*>(shared(sizeof(Attempt)))} {
        best.seed = seed;
        best.schedule = options.schedule;
        best.depth = options.depth;
    }
    ~Shrinker() { munmap(&room_, sizeof room_); }

    // false: it does not fail again, or takes more answers than can be written down.
    bool shrink() {
        first = attempt(room_, best.seed, options_, body_, nullptr, true);
        before = room_.answers;
        if (first.ok || before == most_recorded) return false;
        for (uint32_t i = 0; i < before; ++i) best.answers.push(room_.recorded[i]);
        until_ = seconds() + shrinking_seconds;
        leave_out_streams();
        for (uint32_t size = best.answers.size(); size; size /= 2)
            for (uint32_t from = 0; from < best.answers.size() && !tired();) {
                bool left_out =
                    fails_without([&](uint32_t i) { return i >= from && i < from + size; });
                if (!left_out) from += size;
            }
        return true;
    }

    Replay best;
    Outcome first;
    uint32_t before = 0;

  private:
    void leave_out_streams() {
        for (uint32_t at = 0; at < best.answers.size() && !tired();) {
            uint64_t key = best.answers[at].key;
            bool seen = false;
            for (uint32_t i = 0; i < at; ++i) seen |= best.answers[i].key == key;
            bool left_out =
                !seen && fails_without([&](uint32_t i) { return best.answers[i].key == key; });
            if (!left_out) ++at;
        }
    }
    template <class Which> bool fails_without(Which which) {
        Replay candidate;
        for (uint32_t i = 0; i < best.answers.size(); ++i)
            if (!which(i)) candidate.answers.push(best.answers[i]);
        ++runs_;
        Outcome outcome = attempt(room_, best.seed, options_, body_, &candidate, false);
        if (outcome.ok || !alike(outcome.failure, first.failure)) return false;
        best.answers.swap(candidate.answers);
        return true;
    }
    bool tired() const { return runs_ >= shrinking_runs || seconds() > until_; }

    const Options& options_;
    const Body& body_;
    Attempt& room_;
    double until_ = 0;
    int runs_ = 0;
};

void shrink(const char* name, const CampaignOptions& options, const Body& body, uint64_t seed) {
    Shrinker shrinker{options.run, body, seed};
    if (!shrinker.shrink()) return;
    char path[4096];
    snprintf(path, sizeof path, "%s/%s.replay", options.folder, name);
    for (char* c = path; *c; ++c)
        if (*c == ' ') *c = '_';
    if (!shrinker.best.write(path, name, shrinker.first.failure)) return;
    fprintf(stderr, "  in short: COPSE_REPLAY=%s ", path);
    print_command();
    fprintf(stderr, "\n  (%u of %u unusual choices are needed)\n", shrinker.best.answers.size(),
            shrinker.before);
}

void work(unsigned worker, const CampaignOptions& options, const Body& body) {
    for (;;) {
        uint64_t index = add(board->next, uint64_t{1});
        bool enough = index >= options.seeds || get(board->steps) >= options.steps;
        if (enough || get(board->failed) || seconds() >= board->until) return;
        uint64_t seed = options.first + index;
        board->at_work[worker] = seed;
        alarm(unsigned((options.patience.count() + 999'999'999) / 1'000'000'000));
        Outcome outcome = run_once(seed, options.run, body, nullptr, nullptr);
        if (outcome.ok && options.doubles && seed % options.doubles == 0) {
            Outcome again = run_once(seed, options.run, body, nullptr, nullptr);
            if (again.trace != outcome.trace) {
                outcome.ok = false;
                snprintf(outcome.failure, sizeof outcome.failure,
                         "not deterministic: the second time the trace was %016llx",
                         (unsigned long long)again.trace);
            }
            add(board->steps, again.steps);
        }
        add(board->steps, outcome.steps);
        add(board->faults, outcome.faults);
        add(board->elapsed, outcome.elapsed.count());
        add(board->done, uint64_t{1});
        if (outcome.ok) continue;
        if (!__atomic_exchange_n(&board->failed, 1u, __ATOMIC_ACQ_REL)) {
            board->failure = outcome;
            __atomic_store_n(&board->described, 1u, __ATOMIC_RELEASE);
        }
        return;
    }
}

void print_progress(const char* name, const CampaignOptions& options, double since, bool last) {
    double length = seconds() - since;
    uint64_t done = get(board->done), steps = get(board->steps);
    double share = double(done) / double(options.seeds);
    if (options.steps != UINT64_MAX && double(steps) / double(options.steps) > share)
        share = double(steps) / double(options.steps);
    if (board->until < 1e18) share = length / (board->until - since);
    constexpr int width = 24;
    char bar[width + 1] = {};
    for (int i = 0; i < width; ++i) bar[i] = i < share * width ? '#' : '.';
    bool terminal = isatty(STDERR_FILENO);
    if (!terminal && !last) return;
    fprintf(stderr, "%s%s [%s] %llu seeds, %.1f million steps, %.2f million a second%s",
            terminal ? "\r" : "", name, bar, (unsigned long long)done, double(steps) / 1e6,
            length > 0 ? double(steps) / 1e6 / length : 0, last ? "\n" : "");
}

// Workers, until all seeds are done or one has failed.
void work_in_parallel(const char* name, const CampaignOptions& options, const Body& body) {
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned count = options.processes ? options.processes : online > 0 ? unsigned(online) : 1;
    if (count > most_workers) count = most_workers;
    pid_t workers[most_workers];
    double since = seconds();
    fflush(nullptr);
    for (unsigned i = 0; i < count; ++i) {
        workers[i] = fork();
        if (workers[i] == 0) {
            work(i, options, body);
            fflush(nullptr);
            _exit(0);
        }
    }
    for (unsigned left = count; left;) {
        int status;
        pid_t ended = waitpid(-1, &status, WNOHANG);
        if (ended <= 0) {
            timespec rest{0, 20'000'000};
            nanosleep(&rest, nullptr);
            print_progress(name, options, since, false);
            continue;
        }
        for (unsigned i = 0; i < count; ++i) {
            if (workers[i] != ended) continue;
            --left;
            if (WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
            if (__atomic_exchange_n(&board->failed, 1u, __ATOMIC_ACQ_REL)) continue;
            board->failure = {};
            board->failure.seed = board->at_work[i];
            describe_death(status, board->failure);
        }
    }
    print_progress(name, options, since, true);
}

bool print_marks() {
    bool all = true;
    for (uint64_t i = 0; i < board->marks_used && i < most_marks; ++i) {
        const Mark& mark = board->marks[i];
        if (mark.reached) continue;
        all = false;
        fprintf(stderr, "  never reached: %s\n", mark.name);
    }
    return all;
}

int run_alone(const char* name, const CampaignOptions& options, uint64_t seed, const Body& body) {
    fprintf(stderr, "%s, ", name);
    Outcome outcome = detail::run(seed, options.run, body.call, body.context);
    describe(outcome);
    return outcome.ok ? 0 : 1;
}

}  // namespace

Outcome run(uint64_t seed, const Options& options, void (*body)(void*, World&), void* context) {
    if (!options.replay) return run_once(seed, options, {body, context}, nullptr, nullptr);
    Replay replay;
    Outcome outcome;
    if (!replay.read(options.replay)) {
        snprintf(outcome.failure, sizeof outcome.failure, "%s cannot be replayed", options.replay);
        return outcome;
    }
    return run_once(replay.seed, options, {body, context}, &replay, nullptr);
}

int campaign(const char* name, CampaignOptions options, void (*call)(void*, World&), void* context) {
    Body body{call, context};
    options.run.stop_at = number_of("COPSE_STOP_AT", options.run.stop_at);
    options.run.audit = unsigned(number_of("COPSE_AUDIT", options.run.audit));
    if (number_of("COPSE_VERBOSE", 0)) options.run.verbose = true;
    const char* schedule = getenv("COPSE_SCHEDULE");
    if (schedule && !schedule_called(schedule, options.run.schedule)) {
        fprintf(stderr, "COPSE_SCHEDULE: there is no schedule \"%s\"\n", schedule);
        return 1;
    }
    options.run.replay = getenv("COPSE_REPLAY");
    if (uint64_t seed = number_of("COPSE_SEED", 0); seed || options.run.replay)
        return run_alone(name, options, seed, body);
    options.seeds = number_of("COPSE_SEEDS", options.seeds);
    if (uint64_t steps = number_of("COPSE_STEPS", 0)) {
        options.steps = steps;
        options.seeds = UINT64_MAX / 2;
    }
    options.first = number_of("COPSE_FIRST", options.first);
    board = static_cast<Board*>(shared(sizeof(Board)));
    uint64_t length = number_of("COPSE_SECONDS", 0);
    if (length) options.seeds = UINT64_MAX / 2;
    board->until = length ? seconds() + double(length) : 1e18;
    work_in_parallel(name, options, body);
    int result = 0;
    if (board->failed) {
        result = 1;
        describe(board->failure);
        fprintf(stderr, "  again: COPSE_SEED=%llu ", (unsigned long long)board->failure.seed);
        if (schedule) fprintf(stderr, "COPSE_SCHEDULE=%s ", schedule);
        print_command();
        fputs("\n", stderr);
        if (options.shrink) shrink(name, options, body, board->failure.seed);
    } else if (!print_marks()) {
        result = 1;
    } else {
        fprintf(stderr, "  all went well: %llu faults in %.1f virtual hours\n",
                (unsigned long long)board->faults, double(board->elapsed) / 3.6e12);
    }
    munmap(board, sizeof(Board));
    board = nullptr;
    return result;
}

Exhausted exhaust(unsigned preemptions, uint64_t most, const Options& options,
                  void (*body)(void*, World&), void* context) {
    Exhausted result;
    Explorer explorer;
    explorer.most_deviations = preemptions;
    do {
        Simulation simulation{0, options};
        simulation.chance.replay(nullptr, 0);
        simulation.explorer = &explorer;
        result.last = simulation.run(body, context);
        ++result.schedules;
        if (!result.last.ok) return result;
    } while (result.schedules < most && explorer.next());
    result.complete = result.schedules < most;
    return result;
}

}  // namespace detail

void sometimes(const char* mark, bool reached) {
    using namespace detail;
    Mark* marks = board ? board->marks : own_marks;
    uint64_t& used = board ? board->marks_used : own_marks_used;
    for (uint64_t i = 0; i < get(used) && i < most_marks; ++i) {
        if (strncmp(marks[i].name, mark, mark_length - 1)) continue;
        if (reached) add(marks[i].reached, uint64_t{1});
        return;
    }
    // Two processes may enter the same mark: then either counts.
    uint64_t at = add(used, uint64_t{1});
    if (at >= most_marks) return;
    marks[at].reached = reached;
    snprintf(marks[at].name, mark_length, "%s", mark);
}

}  // namespace copse::sim

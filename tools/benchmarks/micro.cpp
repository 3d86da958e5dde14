// Micro: what the scheduler's verbs cost, each in a loop of its own.
//
// The threads of a test have all run and parked before its clock starts: their stacks are there,
// and what is measured is the verb. Results are used, and errors end the program: a figure of
// something that failed would be a good one.
#include "figures.h"

#include <copse/copse.h>

using namespace copse;
using namespace copse::literals;

namespace {

constexpr const char* usage =
    "usage: copse-bench-micro yield|spawn|spawn-batch|handoff|untimed|timed|scoped|sleep|memory [N]\n"
    "                         line|send|echo\n"
    "  yield N          N threads that only yield; ns a yield\n"
    "  spawn            a thread is added, runs and ends, one after the other; ns a thread\n"
    "  spawn-batch N    the same, N at a time\n"
    "  handoff          two threads wake each other and park; ns a hand-off\n"
    "  untimed N        the same, while N others are parked, each with a deadline\n"
    "  timed N          the same, each wait with a deadline, armed and cancelled\n"
    "  scoped N         the same, and each deadline a new Timeout's, which reads the clock\n"
    "  sleep            how late a sleep of 1 ms ends; the median, in us\n"
    "  memory N         N threads parked; KiB a thread\n"
    "  line, send, echo over a socket pair: 64 bytes, 16 at a time but for echo; ns each\n"
    "COPSE_BENCH_SCALE=0.01 makes every test a hundred times shorter; COPSE_BENCH_ROUNDS=1000 has\n"
    "its loop run so often, whichever it is.\n";

double scale = 1;
long rounds_wanted = 0;
long scaled(double operations) {
    return rounds_wanted ? rounds_wanted : long(operations * scale) + 1;
}

void must(Error error) {
    if (!error) return;
    fprintf(stderr, "copse-bench-micro: %s\n", error.message());
    exit(1);
}

template <class F, class... Args> Thread add(F&& f, Args&&... args) {
    Result<Thread> made = addthread(std::forward<F>(f), std::forward<Args>(args)...);
    must(made.error);
    return *made;
}

// Runs every thread that was added until all are parked; returns once they are.
void let_all_park() {
    for (int i = 0; i < 3; ++i) must(yield());
}

// Yield -------------------------------------------------------------------------------------------

struct Threads {
    Thread* handles;
    long count;
    explicit Threads(long wanted)
        : handles{static_cast<Thread*>(calloc(size_t(wanted), sizeof(Thread)))}, count{wanted} {
        if (!handles) must(Error::no_memory);
    }
    ~Threads() { free(handles); }
};

double yields(long count) {
    long rounds = share(scaled(2e7), count);
    Threads threads{count};
    for (long i = 0; i < count; ++i) {
        threads.handles[i] = add([rounds] {
            must(park());
            for (long left = rounds; left > 0; --left) must(yield());
        });
    }
    let_all_park();
    for (long i = 0; i < count; ++i) must(threads.handles[i].unpark());
    double start = clock_ns();
    for (long i = 0; i < count; ++i) must(threads.handles[i].join());
    return (clock_ns() - start) / double(rounds) / double(count);
}

// Spawn -------------------------------------------------------------------------------------------

long ran = 0;

double spawns(long batch) {
    long batches = share(scaled(5e6), batch);
    double start = 0;
    for (long i = -1; i < batches; ++i) {  // the first one warms up
        if (i == 0) start = clock_ns(), ran = 0;
        for (long j = 0; j < batch; ++j) add([] { ++ran; });
        must(yield());
    }
    double took = clock_ns() - start;
    if (ran != batches * batch) exit(1);
    return took / double(ran);
}

// Hand-off ----------------------------------------------------------------------------------------

enum class Wait { plain, timed, scoped };

// Both threads run these very lines: where one of a pair returns to, so does the other, and a
// processor that predicts returns predicts the hand-off.
[[gnu::noinline]] void hand_over(Thread& other, long rounds, Wait wait) {
    must(park());  // until the clock has started
    Timeout timeout{wait == Wait::timed ? Duration{100_s} : never};
    for (; rounds > 0; --rounds) {
        must(other.unpark());
        if (wait == Wait::scoped) {
            Timeout timeout{10_s};
            must(park());
        } else {
            must(park());
        }
    }
    (void)other.unpark();  // the other one may have ended
}

double handoffs(long pending, Wait wait) {
    long rounds = scaled(5e6);
    Threads others{pending + 1};
    for (long i = 0; i < pending; ++i) {
        others.handles[i] = add([i] {
            Timeout timeout{Duration::seconds(100 + double(i % 977))};
            (void)park();
        });
    }
    Thread pair[2];
    pair[0] = add([&] { hand_over(pair[1], rounds, wait); });
    pair[1] = add([&] { hand_over(pair[0], rounds, wait); });
    let_all_park();
    double start = clock_ns();
    must(pair[0].unpark());
    must(pair[1].unpark());
    must(pair[0].join());
    must(pair[1].join());
    double took = clock_ns() - start;
    for (long i = 0; i < pending; ++i) must(others.handles[i].unpark());
    return took / double(rounds) / 2;
}

// Sleep and memory ----------------------------------------------------------------------------------

double sleep_lateness() {
    constexpr int samples = 301;
    static double late[samples];
    for (double& each : late) {
        Time end = now() + 1_ms;
        must(sleep_until(end));
        each = double((now() - end).count()) * 1e-3;
    }
    return median_of(late, samples);
}

void parked_memory(long count) {
    Threads threads{count};
    memset(static_cast<void*>(threads.handles), 0, size_t(count) * sizeof(Thread));
    Memory before = memory_now();
    double start = clock_ns();
    for (long i = 0; i < count; ++i) threads.handles[i] = add([] { must(park()); });
    let_all_park();
    print_memory(before, count, (clock_ns() - start) * 1e-9);
    for (long i = 0; i < count; ++i) must(threads.handles[i].unpark());
}

// Streams -------------------------------------------------------------------------------------------

constexpr char message[] = "a line of sixty-three bytes, the sixty-fourth of which ends the it\n";
constexpr size_t message_size = sizeof message - 1;

// What is measured is one side's; the other's is as cheap as can be.
enum class Way { lines, sends, echoes };
constexpr long at_once = 16;

// One message there and back.
double echo(Stream& here) {
    std::string_view text{message, message_size};
    double start = clock_ns();
    must(here.send(text).error);
    Result<std::string_view> got = here.receive(message_size);
    double took = clock_ns() - start;
    must(got.error);
    if (*got != text) exit(1);
    return took;
}

// Sixteen messages sent one by one, taken in one piece.
double send_many(Stream& there, Stream& here) {
    std::string_view text{message, message_size};
    double start = clock_ns();
    for (long j = 0; j < at_once; ++j) must(there.send(text).error);
    double took = clock_ns() - start;
    must(there.flush());
    Result<std::string_view> got = here.receive(at_once * message_size);
    must(got.error);
    for (size_t j = 0; j < at_once; ++j)
        if (memcmp(got->data() + j * message_size, message, message_size) != 0) exit(1);
    return took;
}

// Sixteen messages sent in one piece, taken line by line.
double take_lines(Stream& there, Stream& here) {
    static char block[at_once * message_size];
    for (size_t j = 0; j < at_once; ++j) memcpy(block + j * message_size, message, message_size);
    must(there.send({block, sizeof block}).error);
    must(there.flush());
    double start = clock_ns();
    for (long j = 0; j < at_once; ++j) {
        Result<std::string_view> got = here.receive("*l");
        must(got.error);
        if (got->size() != message_size - 1) exit(1);
    }
    return clock_ns() - start;
}

double exchanges(Way way) {
    long rounds = scaled(1e5);
    Result<std::pair<Stream, Stream>> made = pair();
    must(made.error);
    Stream& here = made->first;
    Stream& there = made->second;
    if (way == Way::echoes) {
        add([&] {
            for (;;) {
                auto [bytes, error] = there.receivepartial(65536);
                if (bytes.empty()) return;
                must(there.send(bytes).error);
            }
        });
    }
    double spent = 0;
    for (long i = 0; i < rounds; ++i) {
        switch (way) {
        case Way::echoes: spent += echo(here); break;
        case Way::sends: spent += send_many(there, here); break;
        case Way::lines: spent += take_lines(there, here); break;
        }
    }
    must(here.close());
    return spent / double(rounds) / double(way == Way::echoes ? 1 : at_once);
}

void measure(const char* test, long number) {
    auto is = [test](const char* name) { return strcmp(test, name) == 0; };
    if (is("yield")) return print_figure(yields(number));
    if (is("spawn")) return print_figure(spawns(1));
    if (is("spawn-batch")) return print_figure(spawns(number));
    if (is("handoff")) return print_figure(handoffs(0, Wait::plain));
    if (is("untimed")) return print_figure(handoffs(number, Wait::plain));
    if (is("timed")) return print_figure(handoffs(number, Wait::timed));
    if (is("scoped")) return print_figure(handoffs(number, Wait::scoped));
    if (is("sleep")) return print_figure(sleep_lateness());
    if (is("memory")) return parked_memory(number);
    if (is("line")) return print_figure(exchanges(Way::lines));
    if (is("send")) return print_figure(exchanges(Way::sends));
    if (is("echo")) return print_figure(exchanges(Way::echoes));
    fputs(usage, stderr);
    exit(2);
}

}  // namespace

int main(int count, char** words) {
    if (const char* factor = getenv("COPSE_BENCH_SCALE")) scale = atof(factor);
    if (const char* rounds = getenv("COPSE_BENCH_ROUNDS")) rounds_wanted = atol(rounds);
    const char* test = count > 1 ? words[1] : "";
    long number = count > 2 ? atol(words[2]) : 2;
    must(loop([=] { measure(test, number < 1 ? 1 : number); }));
    return 0;
}

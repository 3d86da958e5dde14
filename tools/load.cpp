// Load: many connections to an echo server, and a look at every byte that comes back.
//
// Each connection is a thread. Its bytes follow from its number and their place, so that what is
// lost, doubled, swapped or somebody else's is found without keeping what was sent. It has as many
// messages under way as the pipeline is deep, and never more than 64 KiB: two ends that both insist
// on sending first would wait for each other for ever.
//
// The clock starts when every connection has had its first answer. Until then only a few at a time
// are on their way: a listener whose queue is full drops the newcomer, and the kernel tries again
// after a whole second.
#include "histogram.h"
#include "program.h"

#include <copse/copse.h>

#include <getopt.h>
#include <string.h>
#include <unistd.h>

using namespace copse;
using namespace copse::literals;

namespace {

constexpr const char* usage =
    "usage: copse-load --port N [--address A] [--connections 50] [--size 64] [--pipeline 1]\n"
    "                  [--seconds 3] [--json]\n"
    "Sends messages of --size bytes to an echo server over so many connections, --pipeline of\n"
    "them at a time on each, and compares every byte that comes back. Exit code 0: all were "
    "right.\n";

constexpr unsigned opening_at_most = 64;  // connections not answered yet; below any backlog
constexpr size_t window = 65536;          // bytes under way on a connection
constexpr size_t piece = 1024;            // bytes made or compared at a time; lies on the stack
constexpr Duration patience = 10_s;       // for a connection to be made, and for an answer

struct Options {
    const char* address = "127.0.0.1";
    uint16_t port = 0;
    unsigned connections = 50;
    unsigned size = 64;
    unsigned pipeline = 1;
    double seconds = 3;
    bool json = false;
};

Options read_options(int count, char** words) {
    static const option known[] = {{"port", required_argument, nullptr, 'p'},
                                   {"address", required_argument, nullptr, 'a'},
                                   {"connections", required_argument, nullptr, 'c'},
                                   {"size", required_argument, nullptr, 's'},
                                   {"pipeline", required_argument, nullptr, 'd'},
                                   {"seconds", required_argument, nullptr, 't'},
                                   {"json", no_argument, nullptr, 'j'},
                                   {"help", no_argument, nullptr, 'h'},
                                   {}};
    Options options;
    for (int found; (found = getopt_long(count, words, "", known, nullptr)) != -1;) {
        switch (found) {
        case 'p': options.port = uint16_t(program::whole("port", optarg, 1, 65535)); break;
        case 'a': options.address = optarg; break;
        case 'c': options.connections = program::whole("connections", optarg, 1, 1e6); break;
        case 's': options.size = program::whole("size", optarg, 1, 1e9); break;
        case 'd': options.pipeline = program::whole("pipeline", optarg, 1, 4096); break;
        case 't': options.seconds = program::number("seconds", optarg, 0.01, 1e6); break;
        case 'j': options.json = true; break;
        case 'h': program::help(usage);
        default: program::misuse(usage);
        }
    }
    if (optind < count || options.port == 0) program::misuse(usage);
    return options;
}

// The bytes of a connection ----------------------------------------------------------------------

uint64_t word(uint64_t connection, uint64_t index) {
    uint64_t z = (connection << 40) + index * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

// Bytes `at` to `at + size` of the endless row that a connection sends.
void make_bytes(uint64_t connection, uint64_t at, char* out, size_t size) {
    while (size > 0) {
        uint64_t eight = word(connection, at / 8);
        size_t skip = size_t(at % 8), n = 8 - skip < size ? 8 - skip : size;
        memcpy(out, reinterpret_cast<char*>(&eight) + skip, n);
        at += n, out += n, size -= n;
    }
}

// How many of the bytes that came in are not what was sent.
size_t count_wrong(uint64_t connection, uint64_t at, std::string_view bytes) {
    char expected[piece];
    size_t wrong = 0;
    while (!bytes.empty()) {
        size_t n = bytes.size() < piece ? bytes.size() : piece;
        make_bytes(connection, at, expected, n);
        if (memcmp(expected, bytes.data(), n) != 0)
            for (size_t i = 0; i < n; ++i) wrong += expected[i] != bytes[i];
        at += n;
        bytes.remove_prefix(n);
    }
    return wrong;
}

// The run ----------------------------------------------------------------------------------------

struct Run {
    Options options;
    Thread conductor;
    Thread* threads = nullptr;  // one a connection
    Time* begun = nullptr;      // options.pipeline a connection: when these were begun
    unsigned opening = 0;       // connections that have not been answered yet
    unsigned open = 0;
    unsigned failed = 0;
    bool measuring = false;
    Time start, end;
    uint64_t verified = 0;  // bytes that came in and were right
    uint64_t wrong = 0;
    Histogram latency;  // nanoseconds, of the messages begun after `start`
};
Run run;

void report_failure(unsigned connection, const char* why) {
    constexpr unsigned worth_printing = 5;
    if (++run.failed <= worth_printing)
        fprintf(stderr, "copse-load: connection %u: %s\n", connection, why);
}

// One connection's messages.
class Conversation {
  public:
    Conversation(Stream& peer, unsigned connection)
        : peer_{peer},
          connection_{connection},
          times_{run.begun + size_t(connection) * run.options.pipeline} {}

    // Begins messages until there are `most` or time is up, and waits for what was begun to come
    // back. Null, or what went wrong.
    const char* hold(uint64_t most, Time end) {
        for (;;) {
            Time time = now();
            while (may_send(most, time < end))
                if (Error error = send_piece(time)) return error.message();
            if (received_ == sent_) return nullptr;
            auto [bytes, error] = peer_.receivepartial(window);
            if (bytes.empty()) return error == Error::timeout ? "no answer" : error.message();
            if (const char* what = accept(bytes)) return what;
        }
    }

  private:
    bool may_send(uint64_t most, bool in_time) const {
        if (sent_ - received_ >= window) return false;
        if (sent_ < count_ * run.options.size) return true;  // the rest of a message
        return in_time && count_ < most && count_ - answered_ < run.options.pipeline;
    }

    Error send_piece(Time time) {
        if (sent_ == count_ * run.options.size) times_[count_++ % run.options.pipeline] = time;
        char bytes[piece];
        uint64_t size = count_ * run.options.size - sent_;
        if (size > window - (sent_ - received_)) size = window - (sent_ - received_);
        if (size > piece) size = piece;
        make_bytes(connection_, sent_, bytes, size_t(size));
        sent_ += size;
        return peer_.send({bytes, size_t(size)}).error;
    }

    const char* accept(std::string_view bytes) {
        if (bytes.size() > sent_ - received_) {
            run.wrong += bytes.size();
            return "bytes that nobody sent";
        }
        size_t wrong = count_wrong(connection_, received_, bytes);
        run.wrong += wrong;
        run.verified += bytes.size() - wrong;
        if (wrong) return "wrong bytes";
        received_ += bytes.size();
        Time time = now();
        for (; answered_ < count_ && received_ >= (answered_ + 1) * run.options.size; ++answered_) {
            Duration took = time - times_[answered_ % run.options.pipeline];
            if (run.measuring) run.latency.add(uint64_t(took.count()));
        }
        return nullptr;
    }

    Stream& peer_;
    unsigned connection_;
    Time* times_;
    uint64_t count_ = 0;     // messages begun
    uint64_t answered_ = 0;  // messages that came back
    uint64_t sent_ = 0;      // bytes
    uint64_t received_ = 0;
};

// A connection's thread.
void drive(unsigned connection) {
    Result<Stream> peer = connect(run.options.address, run.options.port, patience);
    Conversation conversation{*peer, connection};
    const char* trouble = peer.error.message();
    if (peer) {
        peer->settimeout(patience);
        trouble = conversation.hold(1, Time::never());
    }
    --run.opening;
    run.conductor.unpark();
    if (!trouble) {
        ++run.open;
        park();  // until all have come so far
        trouble = conversation.hold(UINT64_MAX, run.end);
        --run.open;
    }
    if (trouble) report_failure(connection, trouble);
}

void show_progress() {
    uint64_t before = run.latency.total();
    Time then = now();
    while (!sleep_for(500_ms)) {
        double seconds = double((now() - then).count()) * 1e-9;
        uint64_t done = run.latency.total();
        fprintf(stderr, "\r%u connections, %.0f requests/s, %u failed, %llu bytes wrong   ",
                run.open, double(done - before) / seconds, run.failed,
                (unsigned long long)run.wrong);
        before = done;
        then = now();
    }
    fprintf(stderr, "\r%70s\r", "");
}

void conduct() {
    run.conductor = self();
    for (unsigned i = 0; i < run.options.connections; ++i) {
        while (run.opening >= opening_at_most) park();
        Result<Thread> thread = addthread(drive, i);
        if (!thread) {
            report_failure(i, thread.error.message());
            continue;
        }
        run.threads[i] = *thread;
        ++run.opening;
    }
    while (run.opening > 0) park();

    Thread progress;
    if (isatty(STDERR_FILENO)) progress = *addthread(show_progress);
    run.measuring = true;
    run.start = now();
    run.end = run.start + Duration::seconds(run.options.seconds);
    for (unsigned i = 0; i < run.options.connections; ++i) run.threads[i].unpark();
    for (unsigned i = 0; i < run.options.connections; ++i) run.threads[i].join();
    run.end = now();
    progress.cancel();
    progress.join();
}

void print_results() {
    const Options& options = run.options;
    double seconds = double((run.end - run.start).count()) * 1e-9;
    auto us = [](uint64_t nanoseconds) { return double(nanoseconds) * 1e-3; };
    const char* format =
        options.json
            ? "{\"connections\": %u, \"size\": %u, \"pipeline\": %u, \"seconds\": %.3f, "
              "\"requests\": %llu, \"requests_per_second\": %.0f, \"p50_us\": %.1f, "
              "\"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f, \"bytes_verified\": %llu, "
              "\"bytes_wrong\": %llu, \"connections_failed\": %u}\n"
            : "connections        %u, %u bytes a message, %u at a time\n"
              "seconds            %.3f\n"
              "requests           %llu\n"
              "requests/s         %.0f\n"
              "latency p50        %.1f us\n"
              "latency p99        %.1f us\n"
              "latency p99.9      %.1f us\n"
              "latency max        %.1f us\n"
              "bytes verified     %llu\n"
              "bytes wrong        %llu\n"
              "connections failed %u\n";
    printf(format, options.connections, options.size, options.pipeline, seconds,
           (unsigned long long)run.latency.total(), double(run.latency.total()) / seconds,
           us(run.latency.quantile(0.5)), us(run.latency.quantile(0.99)),
           us(run.latency.quantile(0.999)), us(run.latency.highest()),
           (unsigned long long)run.verified, (unsigned long long)run.wrong, run.failed);
}

}  // namespace

int main(int count, char** words) {
    run.options = read_options(count, words);
    program::hold_standard_descriptors();
    program::raise_descriptor_limit();

    const Options& options = run.options;
    run.threads = static_cast<Thread*>(calloc(options.connections, sizeof(Thread)));
    run.begun =
        static_cast<Time*>(calloc(size_t(options.connections) * options.pipeline, sizeof(Time)));
    if (!run.threads || !run.begun) {
        fprintf(stderr, "copse-load: no memory for %u connections\n", options.connections);
        return program::failed;
    }
    if (Error error = loop(conduct)) {
        fprintf(stderr, "copse-load: %s\n", error.message());
        return program::failed;
    }
    print_results();
    bool good = run.wrong == 0 && run.failed == 0 && run.latency.total() > 0;
    return good ? program::succeeded : program::failed;
}

// Echo: a server that sends back what it receives, bytes as they come or line by line.
//
// echo.h has what a connection is answered; here are the options and main().
//
// It prints a status line for every line on standard input. Signals would be the usual way; copse
// leaves signals to the program, and this one has none.
#include "echo.h"
#include "place.h"

#include <copse/copse.h>

#include <errno.h>
#include <getopt.h>
#include <string.h>
#include <unistd.h>

using namespace copse;

namespace {

constexpr const char* usage =
    "usage: copse-echo [--port N] [--address A] [--lines] [--max-connections N]\n"
    "                  [--timeout SECONDS]\n"
    "  --port N             where to listen; 0, the default: any free port\n"
    "  --address A          127.0.0.1 unless given; '*' for every address\n"
    "  --lines              answer whole lines, not bytes as they come\n"
    "  --max-connections N  leave any beyond these waiting; 0, the default: no limit\n"
    "  --timeout SECONDS    close a connection that is silent for so long\n"
    "Enter on standard input prints a status line.\n";

struct Options {
    Place place{.program = "copse-echo"};
    bool lines = false;
    Duration timeout = never;
};

Options read_options(int count, char** words) {
    static const option known[] = {{"port", required_argument, nullptr, 'p'},
                                   {"address", required_argument, nullptr, 'a'},
                                   {"lines", no_argument, nullptr, 'l'},
                                   {"max-connections", required_argument, nullptr, 'm'},
                                   {"timeout", required_argument, nullptr, 't'},
                                   {"help", no_argument, nullptr, 'h'},
                                   {}};
    Options options;
    for (int found; (found = getopt_long(count, words, "", known, nullptr)) != -1;) {
        switch (found) {
        case 'p': options.place.port = uint16_t(program::whole("port", optarg, 0, 65535)); break;
        case 'a': options.place.address = optarg; break;
        case 'l': options.lines = true; break;
        case 'm':
            options.place.listen.max_connections =
                program::whole("max-connections", optarg, 0, 1e9);
            break;
        case 't':
            options.timeout = Duration::seconds(program::number("timeout", optarg, 0.001, 1e9));
            break;
        case 'h': program::help(usage);
        default: program::misuse(usage);
        }
    }
    if (optind < count) program::misuse(usage);
    return options;
}

void print_status(const Server& server) {
    Status status = copse::status();
    printf("%zu connections, %llu echoes, %llu bytes; %zu bytes unsent; "
           "%llu turns of %lld us on average and %lld at most; %s, %s\n",
           server.connections(), (unsigned long long)echo::answers,
           (unsigned long long)echo::answered_bytes,
           status.buffered, (unsigned long long)status.turns,
           (long long)(status.turn_avg.count() / 1000), (long long)(status.turn_max.count() / 1000),
           status.poller, status.guard);
    fflush(stdout);
}

// Whoever reads the terminal from the background is stopped, every connection with it.
bool in_background() { return isatty(STDIN_FILENO) && tcgetpgrp(STDIN_FILENO) != getpgrp(); }

// Standard input may be anything: a terminal, a pipe that ends, or /dev/null, which cannot be
// waited for. When there is no more to be had from it, this thread ends and the server goes on.
void answer_console(const Server& server) {
    char typed[256];
    while (wait(STDIN_FILENO, Events::readable) && !in_background()) {
        ssize_t size = read(STDIN_FILENO, typed, sizeof typed);
        if (size < 0 && errno == EAGAIN) continue;
        if (size <= 0) return;
        for (ssize_t i = 0; i < size; ++i)
            if (typed[i] == '\n') print_status(server);
    }
}

}  // namespace

int main(int count, char** words) {
    Options options = read_options(count, words);
    program::hold_standard_descriptors();
    program::raise_descriptor_limit();

    Result<Listener> listener = options.place.open();
    if (!listener) return options.place.fail(listener.error);

    auto serve = options.lines ? echo::serve_lines : echo::serve_bytes;
    Result<Server> server = addserver(std::move(*listener), serve, options.timeout, "echo");
    if (!server) return options.place.fail(server.error);

    addthread({.name = "console"}, answer_console, *server);
    if (Error error = loop()) return options.place.fail(error);
    return program::succeeded;
}

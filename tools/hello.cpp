// Hello: a small HTTP/1.1 server, for curl, a browser or a load generator to talk to.
//
// hello.h has what a connection is answered, http.h how requests are told apart; here are the
// options and main().
#include "hello.h"
#include "place.h"

#include <copse/copse.h>

#include <getopt.h>

using namespace copse;

namespace {

constexpr const char* usage =
    "usage: copse-hello [--port N] [--address A] [--max-connections N] [--timeout SECONDS]\n"
    "  --port N             where to listen; 0, the default: any free port\n"
    "  --address A          127.0.0.1 unless given; '*' for every address\n"
    "  --max-connections N  leave any beyond these waiting; 0, the default: no limit\n"
    "  --timeout SECONDS    close a connection that asks for nothing for so long; 60\n"
    "GET / and /hello are greeted.\n";

struct Options {
    Place place{.program = "copse-hello"};
    HelloOptions hello;
};

Options read_options(int count, char** words) {
    static const option known[] = {{"port", required_argument, nullptr, 'p'},
                                   {"address", required_argument, nullptr, 'a'},
                                   {"max-connections", required_argument, nullptr, 'm'},
                                   {"timeout", required_argument, nullptr, 't'},
                                   {"help", no_argument, nullptr, 'h'},
                                   {}};
    Options options;
    for (int found; (found = getopt_long(count, words, "", known, nullptr)) != -1;) {
        switch (found) {
        case 'p': options.place.port = uint16_t(program::whole("port", optarg, 0, 65535)); break;
        case 'a': options.place.address = optarg; break;
        case 'm':
            options.place.listen.max_connections =
                program::whole("max-connections", optarg, 0, 1e9);
            break;
        case 't':
            options.hello.idle = Duration::seconds(program::number("timeout", optarg, 0.001, 1e9));
            break;
        case 'h': program::help(usage);
        default: program::misuse(usage);
        }
    }
    if (optind < count) program::misuse(usage);
    return options;
}

}  // namespace

int main(int count, char** words) {
    Options options = read_options(count, words);
    program::hold_standard_descriptors();
    program::raise_descriptor_limit();

    Result<Listener> listener = options.place.open();
    if (!listener) return options.place.fail(listener.error);

    Hello hello{options.hello};
    Result<Server> server = addserver(
        std::move(*listener), [&](Stream& stream) { hello.serve(stream); }, never, "hello");
    if (!server) return options.place.fail(server.error);

    Error error = loop();
    (void)destroy_loop();  // whoever is left ends before the handler does
    return error ? options.place.fail(error) : program::succeeded;
}

// Chat: a server where people meet in rooms and hear what each other says; nc is client enough.
//
// chat.h has the rooms and their members; here are the options and main().
#include "chat.h"
#include "place.h"

#include <copse/copse.h>

#include <getopt.h>

using namespace copse;

namespace {

constexpr const char* usage =
    "usage: copse-chat [--port N] [--address A] [--max-members N] [--line-limit BYTES]\n"
    "                  [--backlog LINES] [--patience SECONDS] [--timeout SECONDS]\n"
    "  --port N            where to listen; 0, the default: any free port\n"
    "  --address A         127.0.0.1 unless given; '*' for every address\n"
    "  --max-members N     leave any beyond these waiting; 0, the default: no limit\n"
    "  --line-limit BYTES  what is longer nobody hears; 512\n"
    "  --backlog LINES     so many may wait for a member who does not read; 256\n"
    "  --patience SECONDS  who takes nothing for so long is dropped; 10\n"
    "  --timeout SECONDS   who says nothing for so long is shown the door\n"
    "Members say /join ROOM, /name NAME, /who and /quit; all else is heard by their room.\n";

struct Options {
    Place place{.program = "copse-chat"};
    ChatOptions chat;
};

Options read_options(int count, char** words) {
    static const option known[] = {{"port", required_argument, nullptr, 'p'},
                                   {"address", required_argument, nullptr, 'a'},
                                   {"max-members", required_argument, nullptr, 'm'},
                                   {"line-limit", required_argument, nullptr, 'l'},
                                   {"backlog", required_argument, nullptr, 'b'},
                                   {"patience", required_argument, nullptr, 'w'},
                                   {"timeout", required_argument, nullptr, 't'},
                                   {"help", no_argument, nullptr, 'h'},
                                   {}};
    Options options;
    ChatOptions& chat = options.chat;
    auto seconds = [](const char* name) {
        return Duration::seconds(program::number(name, optarg, 0.001, 1e9));
    };
    for (int found; (found = getopt_long(count, words, "", known, nullptr)) != -1;) {
        switch (found) {
        case 'p': options.place.port = uint16_t(program::whole("port", optarg, 0, 65535)); break;
        case 'a': options.place.address = optarg; break;
        case 'm':
            options.place.listen.max_connections = program::whole("max-members", optarg, 0, 1e9);
            break;
        case 'l': chat.line_limit = program::whole("line-limit", optarg, 1, 65536); break;
        case 'b': chat.backlog = program::whole("backlog", optarg, 1, 1e6); break;
        case 'w': chat.patience = seconds("patience"); break;
        case 't': chat.idle = seconds("timeout"); break;
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

    Chat chat{options.chat};
    Result<Server> server = addserver(
        std::move(*listener), [&](Stream& stream) { chat.serve(stream); }, never, "chat");
    if (!server) return options.place.fail(server.error);

    Error error = loop();
    (void)destroy_loop();  // whoever is left ends before the chat does
    return error ? options.place.fail(error) : program::succeeded;
}

// Consumer: a program of somebody else's: threads and sockets, and exceptions where it has them.
#include <copse/copse.h>

#include <stdio.h>
#include <string.h>

#if defined(__cpp_exceptions)
#include <stdexcept>
#include <string>
#include <typeinfo>

struct Shape {
    virtual ~Shape() = default;
};
struct Circle : Shape {};

// An exception crosses the library on its way out of a thread that parks while it is in flight.
static bool exceptions_work() {
    bool caught = false;
    copse::addthread([&] {
        try {
            Circle circle;
            Shape& shape = circle;
            if (typeid(shape) != typeid(Circle)) return;
            throw std::runtime_error(std::string("thrown"));
        } catch (const std::exception& e) {
            copse::yield();
            caught = strcmp(e.what(), "thrown") == 0;
        }
    });
    return !copse::loop() && caught;
}
#else
static bool exceptions_work() { return true; }
#endif

static bool sockets_work() {
    using namespace copse;
    Result<Listener> listener = bind("127.0.0.1", 0);
    if (!listener) return false;
    Result<Address> address = listener->address();
    Result<Server> server = addserver(std::move(*listener), [](Stream& peer) {
        while (auto line = peer.receive("*l")) {
            const std::string_view answer[] = {"you said ", *line, "\n"};
            peer.send(answer);
        }
    });
    bool answered = false;
    addthread([&] {
        Result<Stream> peer = connect(*address);
        peer->send("hello\n");
        answered = *peer->receive("*l") == "you said hello";
        peer->close();
        server->remove();
    });
    return !loop() && answered;
}

int main() {
    if (!exceptions_work() || !sockets_work()) return 1;
    puts("ok");
    return 0;
}

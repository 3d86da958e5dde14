// Somebody else's test of their server: in a world, with one library more and copse as installed.
#include <copse/sim.h>

#include <stdio.h>

using namespace copse;

static void serve() {
    Result<Listener> listener = bind("*", 7000);
    if (!listener) return sim::fail("%s", listener.error.message());
    Result<Server> server = addserver(std::move(*listener), [](Stream& peer) {
        Result<std::string_view> line = peer.receive("*l");
        if (line) (void)peer.send(*line);
    });
    (void)wait_for_stop();
}

int main() {
    bool answered = false;
    sim::Outcome outcome = sim::run(1, [&](sim::World& world) {
        world.host("server").serve(serve);
        world.host("client").run([&] {
            Result<Stream> server = connect("server", 7000);
            (void)server->send("hello\n");
            answered = server->receive("*a").value == "hello";
        });
    });
    puts(outcome && answered ? "ok" : outcome.failure);
    return outcome && answered ? 0 : 1;
}

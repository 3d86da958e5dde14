// Echo's campaign: whatever goes wrong, what comes back is what was sent, as far as it comes.
//
// Clients on three hosts send bytes that follow from their number, in pieces of any size, and
// compare what comes back; connections that break are made anew. In fair weather none may
// break. When the weather has got better a fresh client must be served at once.
#include "campaign.h"
#include "tools/echo.h"

#include <memory>
#include <string>

using namespace campaign;
using sim::World;

namespace {

constexpr uint16_t port = 4007;
constexpr int clients = 6;
constexpr size_t server_memory_limit = 8 << 20;

struct Scenario {
    int connections = 0, refused = 0, whole = 0, broken = 0, broken_midway = 0;
    uint64_t bytes_back = 0;
    bool fair = false, fresh_served = false;
    size_t most_memory = 0;

    ~Scenario() {
        sim::sometimes("a connection was refused or timed out", refused);
        sim::sometimes("a connection came to its end in order", whole);
        sim::sometimes("a connection broke", broken);
        sim::sometimes("a connection broke with bytes on their way back", broken_midway);
        sim::sometimes("a connection outgrew a page of buffer", most_memory > (1 << 20));
    }
};

char byte_at(uint64_t connection, uint64_t at) {
    uint64_t z = (connection + 1) * 0x9e3779b97f4a7c15u + at / 8 * 0xbf58476d1ce4e5b9u;
    z ^= z >> 29;
    return char(z >> (at % 8 * 8));
}

void serve() {
    listen_to_reports();
    for (;;) {
        Result<Listener> listener = bind("*", port);
        Result<Server> server{};
        if (listener) server = addserver(std::move(*listener), echo::serve_bytes, 60_s, "echo");
        if (listener && server) return (void)wait_for_stop();
        if (sleep_for(100_ms)) return;
    }
}

// One connection: sends `size` bytes while another thread takes in what comes back.
void converse(Scenario& scenario, World& world, uint64_t number, uint64_t size) {
    Result<Stream> connected = connect("server", port, 5_s);
    if (!connected) return (void)++scenario.refused;
    auto stream = std::make_shared<Stream>(std::move(*connected));
    stream->settimeout(10_s);
    auto sent = std::make_shared<uint64_t>(0);  // offered to send(): may come back
    Result<Thread> sender = addthread([=, &world] {
        char piece[3000];
        while (*sent < size) {
            uint64_t most = size - *sent < sizeof piece ? size - *sent : sizeof piece;
            uint64_t count = 1 + world.choose(uint32_t(most));
            for (uint64_t i = 0; i < count; ++i) piece[i] = byte_at(number, *sent + i);
            *sent += count;
            if (!stream->send({piece, size_t(count)})) return;
            if (world.choose(8) == 0) (void)sleep_for(1_ms * int64_t(world.choose(30)));
        }
        (void)stream->shutdown(How::send);
    });
    if (!sender) return;
    uint64_t back = 0;
    Error ended;
    while (!ended) {
        auto [bytes, error] = stream->receivepartial(4096);
        for (char c : bytes) {
            if (c != byte_at(number, back)) return sim::fail("byte %llu came back wrong",
                                                             (unsigned long long)back);
            ++back;
        }
        if (back > *sent) return sim::fail("more came back than was sent");
        if (bytes.empty()) ended = error;
    }
    (void)stream->close();
    (void)sender->join();
    scenario.bytes_back += back;
    ++scenario.connections;
    if (back == size) ++scenario.whole;
    else ++scenario.broken;
    if (scenario.fair && back != size)
        sim::fail("nothing went wrong, and of %llu bytes %llu came back", (unsigned long long)size,
                  (unsigned long long)back);
    scenario.broken_midway += back > 0 && back < size;
}

void people(World& world) {
    auto scenario = std::make_shared<Scenario>();
    scenario->fair = set_weather(world);
    auto server = world.host("server");
    server.serve(serve);
    for (int i = 0; i < clients; ++i) {
        const char* hosts[] = {"north", "south", "west"};
        world.host(hosts[i % 3]).run([=, &world] {
            for (uint64_t round = 0; world.elapsed() < bad_weather && !world.failed(); ++round) {
                uint64_t size = uint64_t{1} << world.choose(18);
                converse(*scenario, world, uint64_t(i) << 32 | round, size);
                if (sleep_for(1_ms * int64_t(world.choose(2000)))) return;
            }
        });
    }
    world.host("east").run([=] {
        (void)sleep_for(bad_weather + 8_s);  // a host may still stand still, a packet be on its way
        Result<Stream> stream = connect("server", port, 5_s);
        if (!stream) return;
        stream->settimeout(5_s);
        (void)stream->send("hello");
        scenario->fresh_served = stream->receive(5).value == "hello";
    });
    world.always("the server's memory is bounded", [=] {
        if (server.memory() > scenario->most_memory) scenario->most_memory = server.memory();
        return server.memory() < server_memory_limit;
    });
    world.eventually("after the weather a fresh client is served", bad_weather + 15_s,
                     [=] { return scenario->fresh_served; });
}

}  // namespace

int main() {
    sim::CampaignOptions options{.run = {.audit = 16}, .seeds = 200};
    return sim::campaign("echo", options, people);
}

// Hello's campaign: whatever goes wrong, the answers are those to the requests, in order, as far as
// they come.
//
// Clients on three hosts send requests of every kind, many at once and cut anywhere, and read the
// answers strictly. Some stop in the middle of a request, or read nothing for a while. In fair
// weather no answer may be missing. When the weather has got better a fresh client must be served.
#include "campaign.h"
#include "hello_replies.h"
#include "tools/hello.h"

#include <memory>
#include <string>

using namespace campaign;
using sim::World;
using test::Reply;

namespace {

constexpr uint16_t port = 8080;
constexpr int clients = 6;
constexpr size_t server_memory_limit = 8 << 20;

struct Scenario {
    int refused = 0, whole = 0, broken = 0, given_up = 0, slow = 0;
    uint64_t answers = 0;
    bool fair = false, fresh_served = false;

    ~Scenario() {
        sim::sometimes("a connection was refused or timed out", refused);
        sim::sometimes("every request of a connection was answered", whole);
        sim::sometimes("a connection broke", broken);
        sim::sometimes("a request that did not come whole was given up", given_up);
        sim::sometimes("a client read nothing for a while", slow);
    }
};

// The wall's clock is the world's, so that one seed is one run.
const HelloOptions options{.idle = 20_s, .request = 5_s, .wall_clock = [] {
    int64_t ns = now().count();
    return timespec{time_t(ns / 1'000'000'000), long(ns % 1'000'000'000)};
}};

void serve() {
    listen_to_reports();
    auto hello = std::make_shared<Hello>(options);
    for (;;) {
        Result<Listener> listener = bind("*", port);
        Result<Server> server{};
        auto handler = [hello](Stream& stream) { hello->serve(stream); };
        if (listener) server = addserver(std::move(*listener), handler, never, "hello");
        if (listener && server) return (void)wait_for_stop();
        if (sleep_for(100_ms)) return;
    }
}

// What may be asked, and what the answer must be.
struct Request {
    const char* text;
    int status;
    bool head = false;
    bool expects = false;  // 100 comes first
};
constexpr Request requests[] = {
    {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 200},
    {"HEAD /hello HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n", 200, true},
    {"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", 404},
    {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 27\r\n\r\n"
     "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 405},
    {"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
     "5;a=b\r\nGET /\r\n0a\r\n\r\n\r\n0\r\n\r\n0\r\n0\r\nA: b\r\n\r\n", 200},
    {"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 204},
    {"\r\nBREW / HTTP/1.1\r\nHost: x\r\n\r\n", 501},
    {"GET / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc", 200,
     false, true},
};

// What one connection asks, and how it ends.
struct Questions {
    std::string text;
    std::vector<const Request*> asked;
    int last = 0;  // the status of one more, with which the connection ends; 0: the client ends it
};
Questions make_questions(World& world) {
    Questions all;
    for (uint32_t count = world.choose(world.choose(4) ? 20 : 600); count--;) {
        const Request& request = requests[world.choose(std::size(requests))];
        all.text += request.text;
        all.asked.push_back(&request);
    }
    switch (world.choose(4)) {
    case 0: all.text += "GET / HT", all.last = 408; break;
    case 1: all.text += "GET / HTTP/1.1\r\nHost : x\r\n\r\n", all.last = 400; break;
    }
    return all;
}

// One connection: sends its questions while another thread takes in the answers.
void converse(Scenario& scenario, World& world) {
    Result<Stream> connected = connect("server", port, 5_s);
    if (!connected) return (void)++scenario.refused;
    auto stream = std::make_shared<Stream>(std::move(*connected));
    auto questions = std::make_shared<Questions>(make_questions(world));
    stream->settimeout(15_s);
    Result<Thread> sender = addthread([=, &world] {
        std::string_view rest = questions->text;
        while (!rest.empty()) {
            size_t size = 1 + world.choose(uint32_t(rest.size() < 900 ? rest.size() : 900));
            if (!stream->send(rest.substr(0, size))) return;
            rest.remove_prefix(size);
            if (world.choose(8) == 0) (void)sleep_for(1_ms * int64_t(world.choose(30)));
        }
        if (!questions->last) (void)stream->shutdown(How::send);
    });
    if (!sender) return;
    if (world.choose(8) == 0) {
        ++scenario.slow;
        (void)sleep_for(2_s);
    }
    std::string answers;
    for (Error ended; !ended;) {
        auto [bytes, error] = stream->receivepartial(4096);
        answers += bytes;
        if (bytes.empty()) ended = error;
    }
    (void)stream->close();
    (void)sender->join();

    std::string_view rest = answers;
    size_t answered = 0;
    bool wrong = false, whole = false;
    Reply reply;
    for (bool continued = false; !whole; rest.remove_prefix(reply.size)) {
        bool more = answered < questions->asked.size();
        const Request* request = more ? questions->asked[answered] : nullptr;
        whole = !more && !questions->last;
        if (!test::read_reply(rest, more && request->head, reply, wrong) || whole) break;
        if (reply.status == 408) ++scenario.given_up;
        if (reply.status == 408 && (!scenario.fair || !more)) {  // it came too late, or in part
            whole = !more;
        } else if (more && request->expects && !continued) {
            continued = true;
            wrong = reply.status != 100;
        } else if (more) {
            continued = false;
            ++answered;
            wrong = reply.status != request->status || reply.close;
        } else {
            whole = true;
            wrong = reply.status != questions->last || !reply.close;
        }
        if (wrong || reply.close) {
            rest.remove_prefix(reply.size);
            break;
        }
    }
    scenario.answers += answered;
    if (wrong) return sim::fail("answer %zu is wrong: %d", answered, reply.status);
    if (whole && !rest.empty()) return sim::fail("there are more answers than questions");
    ++(whole ? scenario.whole : scenario.broken);
    if (scenario.fair && !whole)
        sim::fail("nothing went wrong, and of %zu questions %zu were answered",
                  questions->asked.size(), answered);
}

void people(World& world) {
    auto scenario = std::make_shared<Scenario>();
    scenario->fair = set_weather(world);
    auto server = world.host("server");
    server.serve(serve);
    for (int i = 0; i < clients; ++i) {
        const char* hosts[] = {"north", "south", "west"};
        world.host(hosts[i % 3]).run([=, &world] {
            while (world.elapsed() < bad_weather && !world.failed()) {
                converse(*scenario, world);
                if (sleep_for(1_ms * int64_t(world.choose(2000)))) return;
            }
        });
    }
    world.host("east").run([=] {
        (void)sleep_for(bad_weather + 8_s);  // a host may still stand still, a packet be on its way
        Result<Stream> stream = connect("server", port, 5_s);
        if (!stream) return;
        stream->settimeout(5_s);
        (void)stream->send(requests[0].text);
        auto line = stream->receive("*l");
        scenario->fresh_served = line.value == "HTTP/1.1 200 OK";
    });
    world.always("the server's memory is bounded",
                 [=] { return server.memory() < server_memory_limit; });
    world.eventually("after the weather a fresh client is served", bad_weather + 15_s,
                     [=] { return scenario->fresh_served; });
}

}  // namespace

int main() {
    sim::CampaignOptions campaign_options{.run = {.audit = 16}, .seeds = 200};
    return sim::campaign("hello", campaign_options, people);
}

// What a simulated world promises to the programs in it and to who watches them.
#include "test.h"

#include <copse/sim.h>

#include <string>
#include <vector>

using namespace copse;
using namespace copse::literals;
using sim::World;

namespace {

// Ends with the run: serves lines until canceled.
void serve_lines() {
    Result<Listener> listener = bind("*", 4000);
    if (!listener) return sim::fail("bind: %s", listener.error.message());
    Result<Server> server = addserver(std::move(*listener), [](Stream& peer) {
        while (Result<std::string_view> line = peer.receive("*l")) {
            std::string_view pieces[] = {*line, "\n"};
            if (!peer.send(pieces)) return;
        }
    });
    (void)wait_for_stop();
}

// Asks for so many lines, one after the other; how many came back.
int ask(int lines) {
    Result<Stream> server = connect("server", 4000);
    for (int i = 0; server && i < lines; ++i) {
        std::string words = "line " + std::to_string(i);
        (void)server->send(words + "\n");
        Result<std::string_view> answer = server->receive("*l");
        if (!answer) return i;
        if (*answer != words) sim::fail("another line came back");
    }
    return server ? lines : -1;
}

// Five clients and a server.
void people(World& world, int& answered) {
    answered = 0;
    world.host("server").serve(serve_lines);
    for (int i = 0; i < 5; ++i) world.host("client").run([&] { answered += ask(20); });
}

sim::Outcome run_people(uint64_t seed, const sim::Options& options = {}) {
    int answered = 0;
    sim::Outcome outcome = sim::run(seed, [&](World& world) { people(world, answered); }, options);
    CHECK_EQ(answered, 100);
    return outcome;
}

}  // namespace

TEST(a_seed_is_a_run) {
    std::vector<uint64_t> traces;
    for (uint64_t seed = 1; seed <= 20; ++seed) {
        sim::Outcome first = run_people(seed, {.audit = 1});
        CHECK(first.ok);
        CHECK(std::string(first.failure).empty());
        sim::Outcome again = run_people(seed, {.audit = 1});
        CHECK_EQ(again.trace, first.trace);
        CHECK_EQ(again.steps, first.steps);
        CHECK_EQ(again.elapsed.count(), first.elapsed.count());
        for (uint64_t each : traces) CHECK(each != first.trace);
        traces.push_back(first.trace);
    }
}

// The number is part of the contract: every compiler, optimisation and processor comes to it.
TEST(a_seed_is_the_same_run_on_every_machine) {
    sim::Outcome outcome = run_people(1);
    fprintf(stderr, "trace %016llx\n", (unsigned long long)outcome.trace);
    CHECK(outcome.ok);
}

TEST(a_days_sleep_takes_no_time) {
    Duration slept;
    sim::Outcome outcome = sim::run(1, [&](World& world) {
        world.host("sleeper").run([&] {
            Time before = now();
            (void)sleep_for(Duration::seconds(86400));
            slept = now() - before;
        });
    }, {.limit = never});
    CHECK(outcome.ok);
    CHECK(slept >= Duration::seconds(86400) && slept < Duration::seconds(86401));
}

TEST(a_program_that_waits_for_what_cannot_come_is_told_of) {
    sim::Outcome outcome = sim::run(1, [](World& world) {
        world.host("server").serve([] {
            Result<Listener> listener = bind("*", 4000);
            Result<Stream> peer = listener->accept();
            (void)peer->receive("*l");  // each waits for the other to speak first
        });
        world.host("client").run([] {
            Result<Stream> server = connect("server", 4000);
            (void)server->receive("*l");
        });
    });
    CHECK(!outcome.ok);
    CHECK(std::string(outcome.failure).find("nothing can happen any more") == 0);
}

TEST(a_livelock_is_told_of) {
    sim::Outcome outcome = sim::run(1, [](World& world) {
        world.host("busy").run([] {
            while (!yield()) {}
        });
    }, {.steps_per_second = 100000});
    CHECK(!outcome.ok);
    CHECK(std::string(outcome.failure).find("a livelock") != std::string::npos);
}

TEST(a_stream_that_outlives_its_host_is_told_of) {
    static auto* forgotten = new Stream;  // for ever: the world it was of is gone
    sim::Outcome outcome = sim::run(1, [](World& world) {
        world.host("host").run([] { *forgotten = std::move(pair()->second); });
    });
    CHECK(!outcome.ok);
    CHECK(std::string(outcome.failure).find("left allocated") != std::string::npos);
}

TEST(what_is_always_and_what_is_in_time) {
    auto run = [](int always_until, int64_t eventually_within) {
        return sim::run(1, [=](World& world) {
            int* count = new int{0};
            world.host("host").run([=] {
                for (int i = 0; i < 10; ++i) (void)sleep_for(1_s), ++*count;
            });
            world.always("few", [=] { return *count <= always_until; });
            world.eventually("five", Duration::seconds(double(eventually_within)),
                             [=] { return *count >= 5; });
        });
    };
    CHECK(run(10, 6).ok);
    CHECK(std::string(run(7, 6).failure) == "not always: few");
    CHECK(std::string(run(10, 3).failure) == "not in time: five");
}

TEST(a_partition_stops_bytes_and_healing_brings_them) {
    sim::Outcome outcome = sim::run(3, [](World& world) {
        auto server = world.host("server"), client = world.host("client");
        server.serve(serve_lines);
        client.run([&world] {
            Result<Stream> stream = connect("server", 4000);
            (void)stream->send("before\n");
            CHECK(stream->receive("*l").value == "before");
            (void)sleep_for(20_s);
            (void)stream->send("during\n");
            stream->settimeout(20_s);
            CHECK_EQ(stream->receive("*l").error, Error::timeout);
            stream->settimeout(never);
            CHECK(stream->receive("*l").value == "during");
            CHECK(world.elapsed() > 100_s);
        });
        world.at(10_s, [=, &world] { world.partition(server, client); });
        world.at(100_s, [=, &world] { world.heal(server, client); });
    });
    CHECK(outcome.ok);
}

TEST(a_small_programs_every_schedule_is_run) {
    // Two threads add one each, forgetting that a yield lies between reading and writing.
    int lost = 0;
    auto body = [&](World& world) {
        int* value = new int{0};
        for (int i = 0; i < 2; ++i)
            world.host("host").run([=] {
                int read = *value;
                (void)yield();
                *value = read + 1;
            });
        world.eventually("nothing is lost", never, [=, &lost] {
            lost += *value == 1;
            return true;
        });
    };
    sim::Exhausted all = sim::exhaust(2, body);
    CHECK(all.complete);
    CHECK(all.schedules > 1);
    CHECK(all.last.ok);
}

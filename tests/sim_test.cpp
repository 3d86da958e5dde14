// What a simulated world promises to the programs in it and to who watches them.
#include "machine.h"
#include "test.h"

#include <copse/sim.h>

#include <errno.h>
#include <memory>
#include <string>
#include <unistd.h>
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
    if (test::address_sanitizer) test::skip("a program that does not stop is left as it is");
    for (sim::Schedule schedule : {sim::Schedule::any, sim::Schedule::native}) {
        sim::Outcome outcome = sim::run(1, [](World& world) {
            world.host("busy").run([] {
                while (!yield()) {}
            });
        }, {.schedule = schedule, .steps_per_second = 100000});
        CHECK(!outcome.ok);
        CHECK(std::string(outcome.failure).find("a livelock") != std::string::npos);
    }
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
            auto count = std::make_shared<int>(0);
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
        auto value = std::make_shared<int>(0);
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

// Schedules ---------------------------------------------------------------------------------------

namespace {

// Three threads and a defect that needs two of them to be held up at the right moment: the balance
// is read, others run, and it is written back.
struct Bank {
    int balance = 0;
};
void hurry(World& world, Bank& bank, int yields) {
    bank = {};
    for (int i = 0; i < 3; ++i)
        world.host("bank").run([&bank, yields, i] {
            for (int k = 0; k < yields * i; ++k) (void)yield();
            int read = bank.balance;
            if (i == 1) (void)yield();
            bank.balance = read + 1;
        });
    world.eventually("nothing is lost", never, [&bank] { return bank.balance == 3; });
}

}  // namespace

TEST(in_production_order_each_thread_runs_in_its_turn) {
    std::string order;
    sim::Outcome outcome = sim::run(5, [&](World& world) {
        for (char each : {'a', 'b', 'c', 'd'})
            world.host("host").run([&order, each] {
                for (int k = 0; k < 3; ++k) order += each, (void)yield();
            });
    }, {.schedule = sim::Schedule::production});
    CHECK(outcome.ok);
    CHECK(order == "abcdabcdabcd");
}

TEST(asked_or_not_the_loop_goes_in_production_order) {
    auto order_on = [](sim::Schedule schedule) {
        std::string order;
        sim::Outcome outcome = sim::run(5, [&](World& world) {
            for (char each : {'a', 'b', 'c', 'd'})
                world.host("host").run([&order, each] {
                    for (int k = 0; k < 100; ++k) order += each, (void)yield();
                });
        }, {.schedule = schedule, .audit = 1});
        CHECK(outcome.ok);
        CHECK(outcome.steps > 0);
        return order;
    };
    CHECK(order_on(sim::Schedule::native) == order_on(sim::Schedule::production));
}

TEST(by_chance_every_order_comes_up) {
    std::vector<std::string> orders;
    for (uint64_t seed = 1; seed <= 300; ++seed) {
        std::string order;
        (void)sim::run(seed, [&](World& world) {
            for (char each : {'a', 'b', 'c', 'd'})
                world.host("host").run([&order, each] { order += each; });
        }, {.schedule = sim::Schedule::random});
        bool seen = false;
        for (const std::string& each : orders) seen |= each == order;
        if (!seen) orders.push_back(order);
    }
    CHECK_EQ(orders.size(), 24u);
}

TEST(priorities_that_change_find_what_needs_a_preemption) {
    int found = 0;
    for (uint64_t seed = 1; seed <= 300; ++seed) {
        Bank bank;
        found += !sim::run(seed, [&](World& world) { hurry(world, bank, 1); },
                           {.schedule = sim::Schedule::pct}).ok;
    }
    CHECK(found > 0 && found < 300);
}

TEST(an_exhaustive_search_finds_the_schedule_or_proves_there_is_none) {
    Bank bank;
    sim::Exhausted wrong = sim::exhaust(3, [&](World& world) { hurry(world, bank, 1); });
    CHECK(!wrong.last.ok);
    CHECK(!wrong.complete);
    // The usual order alone does not show it.
    sim::Exhausted usual = sim::exhaust(0, [&](World& world) { hurry(world, bank, 0); });
    CHECK_EQ(usual.schedules, 1u);
    // Four threads that each run once: all 24 orders, none of them wrong.
    std::vector<std::string> orders;
    std::string order;
    sim::Exhausted all = sim::exhaust(4, [&](World& world) {
        if (!order.empty()) orders.push_back(order);
        order = "";
        for (char each : {'a', 'b', 'c', 'd'})
            world.host("host").run([&order, each] { order += each; });
    });
    orders.push_back(order);
    CHECK(all.complete && all.last.ok);
    CHECK_EQ(all.schedules, 24u);
    for (size_t i = 0; i < orders.size(); ++i)
        for (size_t j = 0; j < i; ++j) CHECK(orders[i] != orders[j]);
}

// Time --------------------------------------------------------------------------------------------

TEST(clocks_may_be_off_and_drift_and_no_timer_is_early) {
    for (int drift : {0, 200, -200, 100000, -100000}) {
        sim::Outcome outcome = sim::run(2, [=](World& world) {
            auto host = world.host("host");
            host.setclock(Duration::seconds(drift), drift);
            host.run([] {
                for (Duration length : {Duration(1_ns), Duration(1_ms), Duration(10_s)}) {
                    Time before = now();
                    (void)sleep_for(length);
                    CHECK(now() - before >= length);
                    CHECK(now() - before <= length + 1_ms);
                }
            });
        });
        CHECK(outcome.ok);
    }
}

TEST(a_paused_host_finds_afterwards_what_has_arrived) {
    sim::Outcome outcome = sim::run(4, [](World& world) {
        auto server = world.host("server");
        server.serve(serve_lines);
        world.host("client").run([&world] {
            Result<Stream> stream = connect("server", 4000);
            (void)sleep_for(2_s);
            (void)stream->send("hello\n");
            CHECK(stream->receive("*l").value == "hello");
            CHECK(world.elapsed() >= 31_s);
        });
        world.at(1_s, [=]() mutable { server.pause(30_s); });
    });
    CHECK(outcome.ok);
}

TEST(a_slow_link_takes_the_time_its_bytes_need) {
    sim::Outcome outcome = sim::run(4, [](World& world) {
        auto server = world.host("server"), client = world.host("client");
        world.setlatency(server, client, 10_ms, 20_ms);
        world.setbandwidth(server, client, 100000);
        server.serve(serve_lines);
        client.run([&world] {
            Result<Stream> stream = connect("server", 4000);
            Duration before = world.elapsed();
            (void)stream->send(std::string(50000, 'x') + "\n");
            CHECK_EQ(stream->receive("*l").value.size(), 50000u);
            Duration took = world.elapsed() - before;
            CHECK(took >= 1_s && took <= 3_s);  // half a second each way, and packets' heads
        });
    });
    CHECK(outcome.ok);
}

// Limits ------------------------------------------------------------------------------------------

TEST(a_host_has_so_much_memory_and_so_many_descriptors) {
    sim::Outcome outcome = sim::run(1, [](World& world) {
        auto host = world.host("host");
        host.setdescriptors(10);
        host.run([host]() mutable {
            std::vector<Stream> streams;
            for (;;) {
                Result<std::pair<Stream, Stream>> both = pair();
                if (!both) {
                    CHECK_EQ(both.error.code(), EMFILE);
                    break;
                }
                streams.push_back(std::move(both->first));
                streams.push_back(std::move(both->second));
            }
            CHECK_EQ(host.descriptors(), streams.size());
            CHECK(streams.size() >= 4 && streams.size() <= 10);
            host.setmemory(host.memory() + 10000);
            CHECK_EQ(addthread({.stack_size = 1 << 20}, [] {}).error, Error::no_memory);
            host.setmemory(0);
            CHECK_EQ(addthread({.stack_size = 1 << 20}, [] {}).error, Error::none);
        });
    });
    CHECK(outcome.ok);
}

TEST(what_a_fault_hook_refuses_fails) {
    static int refused;
    refused = 0;
    sim::Outcome outcome = sim::run(1, [](World& world) {
        auto host = world.host("host");
        host.setfault([](void*, const char* call, uint64_t number) {
            bool hit = std::string(call) == "open_pair" && number == 1;
            refused += hit;
            return hit ? ENFILE : 0;
        }, nullptr);
        host.run([] {
            CHECK(bool(pair()));
            CHECK_EQ(pair().error.code(), ENFILE);
            CHECK(bool(pair()));
        });
    });
    CHECK(outcome.ok);
    CHECK_EQ(refused, 1);
}

// Faults ------------------------------------------------------------------------------------------

TEST(faults_stay_within_their_budget) {
    for (uint64_t budget : {0u, 1u, 7u}) {
        int answered;
        sim::Outcome outcome = sim::run(3, [&](World& world) {
            sim::Faults faults;
            faults.short_write = faults.library = 1;
            faults.budget = budget;
            world.setfaults(faults);
            people(world, answered);
        });
        CHECK(outcome.ok);
        CHECK_EQ(outcome.faults, budget);
    }
}

// Campaigns ---------------------------------------------------------------------------------------

namespace {

// What a campaign says of a program that fails at some seeds.
void lose(World& world) {
    static Bank bank;
    hurry(world, bank, 1);
}

std::string slurp(const std::string& path) {
    std::string all;
    if (FILE* file = fopen(path.c_str(), "r")) {
        char piece[4096];
        for (size_t got; (got = fread(piece, 1, sizeof piece, file));) all.append(piece, got);
        fclose(file);
    }
    return all;
}

struct Folder {
    char path[32] = "/tmp/copse-sim-XXXXXX";
    Folder() { REQUIRE(mkdtemp(path)); }
    ~Folder() {
        for (const char* name : {"/lost_update.replay", "/x.replay"})
            unlink((std::string(path) + name).c_str());
        rmdir(path);
    }
};

}  // namespace

TEST(a_failure_is_made_small_and_can_be_replayed) {
    Folder folder;
    sim::CampaignOptions options{.seeds = 500, .folder = folder.path};
    CHECK_EQ(sim::campaign("lost update", options, lose), 1);
    std::string path = std::string(folder.path) + "/lost_update.replay";
    std::string text = slurp(path);
    CHECK(text.find("copse replay 1\ncampaign lost update\nfailure not in time") == 0);
    // The heading's five lines, and few choices.
    size_t lines = 0;
    for (char each : text) lines += each == '\n';
    CHECK(lines <= 5 + 4);
    sim::Outcome again = sim::run(0, lose, {.replay = path.c_str()});
    CHECK(!again.ok);
    CHECK(std::string(again.failure) == "not in time: nothing is lost");
    CHECK(!sim::run(0, lose, {.replay = "/nowhere"}).ok);
}

TEST(a_campaign_goes_well_when_every_seed_does) {
    sim::CampaignOptions options{.seeds = 50};
    auto sleep = [](World& world) { world.host("host").run([] { (void)sleep_for(1_s); }); };
    CHECK_EQ(sim::campaign("sleep", options, sleep), 0);
}

TEST(a_mark_that_is_never_reached_fails_a_campaign) {
    sim::CampaignOptions options{.seeds = 50};
    auto toss = [](World& world) {
        world.host("host").run([&world] {
            uint32_t face = world.choose(4);
            sim::sometimes("a one", face == 1);
            sim::sometimes("a five", face == 5);
        });
    };
    CHECK_EQ(sim::campaign("dice", options, toss), 1);
    auto fair = [](World& world) {
        world.host("host").run([&world] { sim::sometimes("a one", world.choose(4) == 1); });
    };
    CHECK_EQ(sim::campaign("fair dice", options, fair), 0);
}

TEST(a_crash_is_a_failure_that_names_its_seed) {
    Folder folder;
    sim::CampaignOptions options{.seeds = 50, .folder = folder.path};
    auto crash = [](World& world) {
        world.host("host").run([&world] {
            if (world.seed() == 7) _exit(3);
        });
    };
    CHECK_EQ(sim::campaign("x", options, crash), 1);
    // Only that seed ends so, and no choice of it was to blame: none is left.
    CHECK(slurp(std::string(folder.path) + "/x.replay").find("\nseed 7\n") != std::string::npos);
}

TEST(what_differs_the_second_time_is_told_of) {
    sim::CampaignOptions options{.seeds = 50, .doubles = 1, .shrink = false};
    static int runs = 0;  // the world does not know of it: so must no program
    auto forgetful = [](World& world) {
        ++runs;
        world.host("host").run([] {
            for (int i = 0; i < runs; ++i) (void)yield();
        });
    };
    CHECK_EQ(sim::campaign("forgetful", options, forgetful), 1);
}

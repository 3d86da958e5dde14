// Outcome: when several things befall a parked call in one turn, which of them it returns.
//
// The rule is: closed before data before canceled before timeout. Whatever it is, it comes once,
// nothing of the others is left behind, and what was not returned is there for the next call.
#include "faulty_system.h"
#include "peer.h"
#include "test.h"

#include <algorithm>
#include <memory>
#include <vector>

using namespace copse;
using namespace copse::literals;
using test::Call;
using test::Connected;
using test::Kind;
using test::Peer;
using test::World;

namespace {

enum Fact { data, timeout, cancel, close_it };
const char* const fact_names[] = {"data", "timeout", "cancel", "close"};

// Every order of every selection of the facts.
std::vector<std::vector<Fact>> all_orders(bool with_close = true) {
    std::vector<std::vector<Fact>> orders;
    for (unsigned chosen = 1; chosen < (with_close ? 16u : 8u); ++chosen) {
        std::vector<Fact> order;
        for (int i = 0; i < 4; ++i)
            if (chosen & (1u << i)) order.push_back(Fact(i));
        do orders.push_back(order);
        while (std::next_permutation(order.begin(), order.end()));
    }
    return orders;
}

bool has(const std::vector<Fact>& order, Fact fact) {
    return std::find(order.begin(), order.end(), fact) != order.end();
}

// What the call is to return. told: the poller spoke after the last fact and before the thread ran;
// otherwise a thread that was canceled knows nothing of the data.
Error expected(const std::vector<Fact>& order, bool told) {
    if (has(order, close_it)) return Error::closed;
    if (has(order, data) && (told || !has(order, cancel))) return Error::none;
    return has(order, cancel) ? Error::canceled : Error::timeout;
}

// One kind of call: what it waits on, how the facts come about.
struct Scene {
    World& world;
    explicit Scene(World& its) : world{its} {}
    virtual ~Scene() = default;
    virtual Error call() = 0;          // parks until a fact
    virtual void bring_data() = 0;     // what it waits for
    virtual bool data_needs_no_poller() const { return false; }
    virtual void close() = 0;
    virtual void go_on(bool got) = 0;  // in a thread, not closed: the next call works
};

template <class Kind> void play(bool with_close = true) {
    World world;
    for (const std::vector<Fact>& order : all_orders(with_close)) {
        for (bool told : {true, false}) {
            Connected other;
            auto scene = std::make_unique<Kind>(world);
            int results = 0;
            Error result, rule;
            (void)world.run([&] {
                Result<Thread> caller = addthread([&] {
                    Timeout scope{10_ms};
                    result = scene->call();
                    ++results;
                });
                (void)sleep_for(1_ms);
                CHECK_EQ(results, 0);
                for (Fact fact : order) {
                    switch (fact) {
                    case data: scene->bring_data(); break;
                    case timeout: world.time += 10'000'000; break;
                    case cancel: (void)caller->cancel(); break;
                    case close_it: scene->close(); break;
                    }
                }
                // What was sent is written before the threads made ready run: the turn ends, and
                // the poller is asked.
                if (told) (void)other.stream.send("x");
                for (int i = 0; i < 3; ++i) (void)yield();
                if (!results) (void)sleep_for(1_ms);
                CHECK_EQ(results, 1);
                (void)caller->join();
                Inspection::check();
                if (!has(order, close_it)) {
                    CHECK_EQ(status().waiting, 0u);
                    CHECK_EQ(status().sleeping, 0u);
                    if (!has(order, data)) scene->bring_data();
                    scene->go_on(result == Error::none);
                }
                rule = expected(order, told || scene->data_needs_no_poller());
                scene.reset();
                other.peer.close();
                world.open_dam();
            });
            if (result != rule) {
                test::fail(__FILE__, __LINE__, "the rule");
                for (Fact fact : order) fprintf(stderr, "    %s", fact_names[fact]);
                fprintf(stderr, "%s: %s\n", told ? " (told)" : "", result.message());
            }
            CHECK(World::quiet());
        }
    }
}

// Receiving ---------------------------------------------------------------------------------------

struct Receiving : Scene {
    using Scene::Scene;
    Connected c;
    std::string text;
    ~Receiving() override { c.peer.close(); }
    void close() override { CHECK_EQ(c.stream.close(), Error::none); }
    void bring_data() override { c.peer.send("x\n"); }
    Error keep(const Result<std::string_view>& got) {
        text += *got;
        return got.error;
    }
    // Exactly what was brought has come, once.
    void go_on(bool got) override {
        c.stream.settimeout(1_s);
        if (!got) CHECK_EQ(keep(c.stream.receive("*l")), Error::none);
        CHECK(text == "x");
        c.peer.send("more\n");
        CHECK(c.stream.receive("*l").value == "more");
    }
};

struct ALine : Receiving {
    using Receiving::Receiving;
    Error call() override { return keep(c.stream.receive("*l")); }
};
struct ACount : Receiving {
    using Receiving::Receiving;
    Error call() override {
        Error error = keep(c.stream.receive(2));
        if (!error) text.pop_back();
        return error;
    }
};
struct Something : Receiving {
    using Receiving::Receiving;
    Error call() override { return keep(c.stream.receive(0)); }
    void go_on(bool) override { Receiving::go_on(false); }
};
struct Some : Receiving {
    using Receiving::Receiving;
    Error call() override {
        static char room[5];
        Result<std::span<char>> got = c.stream.receive_some(room);
        text.assign(got->data(), got->size());
        if (!text.empty()) text.pop_back();
        return got.error;
    }
};
struct ASpan : Receiving {
    using Receiving::Receiving;
    Error call() override {
        static char room[2];
        Result<std::span<char>> got = c.stream.receive(std::span<char>(room));
        text.assign(got->data(), got->size());
        if (!text.empty()) text.pop_back();
        return got.error;
    }
};
struct AllOfIt : Receiving {
    using Receiving::Receiving;
    void bring_data() override {
        c.peer.send("x\n");
        c.peer.end();
    }
    Error call() override { return keep(c.stream.receive("*a")); }
    void go_on(bool got) override {
        if (!got) CHECK_EQ(keep(c.stream.receive("*a")), Error::none);
        CHECK(text == "x\n");
        CHECK_EQ(c.stream.receive("*a").error, Error::closed);
    }
};

}  // namespace

TEST(of_a_line_that_is_received) { play<ALine>(); }
TEST(of_a_count_that_is_received) { play<ACount>(); }
TEST(of_a_wait_for_something_to_receive) { play<Something>(); }
TEST(of_some_bytes_that_are_received) { play<Some>(); }
TEST(of_a_span_that_is_received) { play<ASpan>(); }
TEST(of_all_that_is_received) { play<AllOfIt>(); }

// Sending -----------------------------------------------------------------------------------------

namespace {

constexpr size_t large = 2 * 65536;

struct Sending : Scene {
    Connected c;
    explicit Sending(World& its) : Scene{its} { world.dam(); }
    ~Sending() override {
        c.peer.close();
        (void)c.stream.reset();
    }
    void close() override { CHECK_EQ(c.stream.close(), Error::none); }
    void bring_data() override { world.open_dam(); }
};

struct ASend : Sending {
    using Sending::Sending;
    Error call() override {
        Result<size_t> sent = c.stream.send(test::pattern(large));
        if (sent) CHECK_EQ(*sent, large);
        else CHECK_EQ(*sent, 0u);
        return sent.error;
    }
    void go_on(bool got) override {
        CHECK_EQ(*c.stream.send("and more"), 8u);
        CHECK_EQ(c.stream.flush(), Error::none);
        CHECK(c.peer.receive() == (got ? test::pattern(large) : "") + "and more");
    }
};
struct AFlush : Sending {
    using Sending::Sending;
    Error call() override {
        CHECK_EQ(*c.stream.send("bytes"), 5u);
        return c.stream.flush();
    }
    void go_on(bool got) override {
        if (got) CHECK_EQ(status().buffered, 0u);
        CHECK_EQ(*c.stream.send(" more"), 5u);
        CHECK_EQ(c.stream.flush(), Error::none);
        CHECK(c.peer.receive() == "bytes more");
    }
};

}  // namespace

TEST(of_a_send) { play<ASend>(); }
TEST(of_a_flush) { play<AFlush>(); }

// Accepting and connecting ------------------------------------------------------------------------

namespace {

struct Accepting : Scene {
    Result<Listener> listener = bind("127.0.0.1", 0, {.max_connections = 2});
    Address address = *listener->address();
    std::vector<Peer> clients;
    std::vector<Stream> accepted;
    using Scene::Scene;
    ~Accepting() override {
        for (Peer& each : clients) each.close();
        for (Stream& each : accepted) (void)each.reset();
    }
    Error call() override {
        Result<Stream> got = listener->accept();
        CHECK_EQ(bool(got.value), bool(got));
        if (got) accepted.push_back(std::move(*got));
        return got.error;
    }
    void bring_data() override {
        if (!*listener) return;
        clients.push_back(test::dial(address));
        clients.back().send("me");
    }
    void close() override { CHECK_EQ(listener->close(), Error::none); }
    void go_on(bool got) override {
        if (!got) CHECK_EQ(call(), Error::none);
        REQUIRE(accepted.size() >= 1);
        CHECK(accepted.back().receive(2).value == "me");
    }
};

struct AtTheLimit : Accepting {
    explicit AtTheLimit(World& its) : Accepting{its} {
        for (int i = 0; i < 3; ++i) {
            clients.push_back(test::dial(address));
            clients.back().send("me");
        }
    }
    Error call() override {
        // The facts come when this one waits for a connection to end.
        while (accepted.size() < 2 && Accepting::call() == Error::none) {}
        return Accepting::call();
    }
    void bring_data() override { CHECK_EQ(accepted.front().reset(), Error::none); }
    bool data_needs_no_poller() const override { return true; }
    void go_on(bool got) override {
        if (!got) CHECK_EQ(Accepting::call(), Error::none);
        REQUIRE(accepted.size() == 3);
        CHECK(accepted.back().receive(2).value == "me");
    }
};

// The handshake is over when the test says so.
struct Connecting : Scene {
    Result<Listener> listener = bind("127.0.0.1", 0);
    Address address = *listener->address();
    Stream made;
    int fd = -1;
    explicit Connecting(World& its) : Scene{its} {
        world.fault = [this](Call call, int number) {
            if (call != Call::connect) return 0;
            fd = number;
            world.mute(fd);
            return EINPROGRESS;
        };
    }
    ~Connecting() override {
        world.fault = nullptr;
        (void)made.reset();
    }
    Error call() override {
        Result<Stream> got = connect(address);
        made = std::move(*got);
        return got.error;
    }
    void bring_data() override {
        if (fd >= 0 && fcntl(fd, F_GETFD) >= 0) (void)::connect(fd, address.raw(), address.size());
        world.unmute(fd);
    }
    void close() override {}
    void go_on(bool got) override {
        world.fault = nullptr;
        if (!got) CHECK_EQ(call(), Error::none);
        CHECK(*made.getpeername() == address);
    }
};

}  // namespace

TEST(of_an_accept) { play<Accepting>(); }
TEST(of_an_accept_at_the_limit) { play<AtTheLimit>(); }
TEST(of_a_connect) { play<Connecting>(false); }

// Incomplete data ---------------------------------------------------------------------------------

TEST(what_had_come_is_kept_whatever_the_outcome) {
    World world;
    for (const std::vector<Fact>& order : all_orders()) {
        if (!has(order, data) || order.size() == 1) continue;
        for (bool told : {true, false}) {
            Connected c, other;
            std::string text;
            Error result;
            (void)world.run([&] {
                Result<Thread> caller = addthread([&] {
                    c.stream.settimeout(10_ms);
                    Result<std::string_view> got = c.stream.receive("*l", "<");
                    text = *got;
                    result = got.error;
                });
                (void)sleep_for(1_ms);
                for (Fact fact : order) {
                    switch (fact) {
                    case data: c.peer.send("not a line"); break;
                    case timeout: world.time += 10'000'000; break;
                    case cancel: (void)caller->cancel(); break;
                    case close_it: (void)c.stream.close(); break;
                    }
                }
                if (told) (void)other.stream.send("x");
                (void)caller->join();
                Error rule = has(order, close_it) ? Error::closed
                             : has(order, cancel) ? Error::canceled
                                                  : Error::timeout;
                CHECK_EQ(result, rule);
                c.peer.send("!\n");
                if (rule != Error::closed) {
                    c.stream.settimeout(1_s);
                    text += *c.stream.receive("*l");
                    CHECK(text == "<not a line!");
                } else {
                    CHECK(text == "<");
                }
                c.peer.close();
                other.peer.close();
            });
            CHECK(World::quiet());
        }
    }
}

// The one who waits is the one who is woken -------------------------------------------------------

TEST(a_receiver_that_timed_out_is_not_woken_for_another_ones_bytes) {
    World world;
    Connected c;
    std::string first, second;
    Duration slept;
    (void)world.run([&] {
        REQUIRE(addthread([&] {
            c.stream.settimeout(1_ms);
            CHECK_EQ(c.stream.receive("*l").error, Error::timeout);
            Time before = now();
            (void)sleep_for(100_ms);
            slept = now() - before;
            first = *c.stream.receive("*l");
        }));
        (void)sleep_for(2_ms);
        REQUIRE(addthread([&] {
            c.stream.settimeout(never);
            second = *c.stream.receive("*l");
        }));
        (void)sleep_for(1_ms);
        c.peer.send("for the second\n");
        (void)sleep_for(1_ms);
        CHECK(second == "for the second");
        c.peer.send("for the first\n");
    });
    CHECK(slept == 100_ms);
    CHECK(first == "for the first");
}

TEST(a_sender_that_timed_out_makes_way_for_another) {
    World world;
    Connected c;
    Error second = Error::busy;
    world.dam();
    (void)world.run([&] {
        REQUIRE(addthread([&] {
            c.stream.settimeout(1_ms);
            CHECK_EQ(c.stream.send(test::pattern(large)).error, Error::timeout);
            (void)sleep_for(100_ms);
        }));
        (void)sleep_for(2_ms);
        REQUIRE(addthread([&] {
            c.stream.settimeout(never);
            second = c.stream.send(test::pattern(large)).error;
        }));
        (void)sleep_for(1_ms);
        world.open_dam();
        (void)sleep_for(1_ms);
        CHECK_EQ(second, Error::none);
    });
}

TEST(a_thousand_timeouts_leave_nothing_behind) {
    World world;
    Connected c;
    (void)world.run([&] {
        c.stream.settimeout(1_ms);
        size_t entries = Inspection::deadline_entries();
        for (int i = 0; i < 1000; ++i) CHECK_EQ(c.stream.receive("*l").error, Error::timeout);
        CHECK(Inspection::deadline_entries() <= entries + 1);
        uint64_t polls = status().polls;
        (void)sleep_for(1000_s);
        CHECK(status().polls - polls <= 2);
        c.peer.send("line\n");
        CHECK(c.stream.receive("*l").value == "line");
    });
}

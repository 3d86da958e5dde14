// Accept: what befalls a thread that can accept nothing for now, and what others notice of it.
#include "faulty_system.h"
#include "peer.h"
#include "test.h"

#include <optional>
#include <sys/resource.h>
#include <vector>

using namespace copse;
using namespace copse::literals;
using test::Call;
using test::Peer;
using test::World;

namespace {

Listener listening(ListenOptions options = {}) {
    Result<Listener> listener = bind("127.0.0.1", 0, options);
    REQUIRE(listener);
    return std::move(*listener);
}

// A thread in accept() that has a client and no descriptor for it, until `hungry` ends.
struct Starving {
    World world;
    std::optional<Listener> listener{listening()};
    Address address = *listener->address();
    Peer client;
    Thread acceptor;
    Duration began;
    bool hungry = true, ended = false;
    Error told;

    explicit Starving(int number = EMFILE) {
        world.fault = [this, number](Call call, int) {
            return call == Call::accept && hungry ? number : 0;
        };
    }
    // In a thread. scope: the longest that it may take.
    void begin(Duration scope = never) {
        client = test::dial(address);
        Result<Thread> added = addthread([this, scope] {
            Timeout bound{scope};
            told = listener->accept().error;
            ended = true;
        });
        REQUIRE(added);
        acceptor = *added;
        (void)sleep_for(1_ms);
        began = world.elapsed();
        CHECK(!ended);
        CHECK_EQ(world.reports, 1);
    }
    // In a thread: the listener is as good as ever.
    void go_on() {
        hungry = false;
        CHECK_EQ(listener->accept().error, Error::none);
    }
};

}  // namespace

// Without descriptors -----------------------------------------------------------------------------

TEST(a_listener_that_is_closed_while_descriptors_are_short_says_so_at_once) {
    Starving s;
    (void)s.world.run([&] {
        s.begin();
        CHECK_EQ(s.listener->close(), Error::none);
        CHECK_EQ(s.acceptor.join(), Error::none);
        CHECK_EQ(s.told, Error::closed);
        CHECK(s.world.elapsed() == s.began);
    });
}

TEST(a_listener_that_goes_out_of_scope_while_descriptors_are_short_ends_the_call) {
    Starving s;
    (void)s.world.run([&] {
        s.begin();
        s.listener.reset();
        CHECK_EQ(s.acceptor.join(), Error::none);
        CHECK_EQ(s.told, Error::closed);
        CHECK(s.world.elapsed() == s.began);
    });
}

TEST(an_acceptor_that_is_canceled_while_descriptors_are_short_ends_at_once) {
    Starving s;
    (void)s.world.run([&] {
        s.begin();
        CHECK_EQ(s.acceptor.cancel(), Error::none);
        CHECK_EQ(s.acceptor.join(), Error::none);
        CHECK_EQ(s.told, Error::canceled);
        CHECK(s.world.elapsed() == s.began);
        s.go_on();
    });
}

TEST(a_timeout_ends_accepting_while_descriptors_are_short) {
    Starving s;
    (void)s.world.run([&] {
        s.begin(250_ms);
        CHECK_EQ(s.acceptor.join(), Error::none);
        CHECK_EQ(s.told, Error::timeout);
        CHECK(s.world.elapsed() - s.began == 249_ms);
        s.go_on();
    });
}

TEST(a_close_beats_what_else_befell_the_call_in_the_same_turn) {
    enum class Other { cancellation, timeout };
    for (Other other : {Other::cancellation, Other::timeout}) {
        for (bool close_first : {true, false}) {
            Starving s;
            (void)s.world.run([&] {
                s.begin(other == Other::timeout ? 50_ms : never);
                if (close_first) (void)s.listener->close();
                if (other == Other::cancellation) (void)s.acceptor.cancel();
                // The loop wakes late: both threads' time has come, and ours came first.
                s.world.waits = [&](int64_t timeout) { s.world.time += timeout ? 60'000'000 : 0; };
                if (other == Other::timeout) (void)sleep_for(1_ms);
                s.world.waits = nullptr;
                if (!close_first) (void)s.listener->close();
                (void)s.acceptor.join();
                CHECK_EQ(s.told, Error::closed);
            });
        }
    }
}

TEST(a_loop_may_be_taken_down_while_descriptors_are_short) {
    Starving s;
    REQUIRE(addthread([&] { s.begin(); }));
    while (!s.world.reports) (void)step(0_s);
    (void)step(0_s);
    CHECK(!s.ended);
    CHECK_EQ(destroy_loop(), Error::none);
    CHECK(s.ended);
    CHECK_EQ(s.told, Error::canceled);
}

TEST(a_second_acceptor_is_busy_whatever_the_first_one_waits_for) {
    Starving s;
    (void)s.world.run([&] {
        s.begin();
        CHECK_EQ(s.listener->accept().error, Error::busy);
        (void)s.acceptor.cancel();
        Listener full = listening({.max_connections = 1});
        Peer client = test::dial(*full.address());
        s.hungry = false;
        Result<Stream> only = full.accept();
        Result<Thread> waiting = addthread([&] {
            CHECK_EQ(full.accept().error, Error::canceled);
        });
        (void)yield();
        CHECK_EQ(full.accept().error, Error::busy);
        (void)waiting->cancel();
        (void)waiting->join();
    });
}

TEST(of_two_listeners_without_descriptors_each_gets_its_turn) {
    Starving s;
    Listener other = listening();
    bool served = false;
    (void)s.world.run([&] {
        Peer client = test::dial(*other.address());
        REQUIRE(addthread([&] { served = bool(other.accept()); }));
        (void)sleep_for(1_ms);
        s.world.reports = 0;
        s.begin();
        s.world.reports = 0;
        (void)sleep_for(10_s);
        // Each has said so once and asks ten times a second.
        CHECK_EQ(s.world.reports, 0);
        CHECK(s.world.of_call(Call::accept) <= 210);
        s.hungry = false;
        (void)sleep_for(101_ms);
        CHECK(served && s.ended);
        CHECK_EQ(s.told, Error::none);
    });
}

TEST(at_the_real_limit_those_who_are_connected_are_answered_and_the_next_one_has_their_place) {
    rlimit limit{};
    getrlimit(RLIMIT_NOFILE, &limit);
    World world;
    (void)world.run([&] {
        // A limit of its own would keep the listener from ever meeting the process's.
        Listener listener = listening({.max_connections = 1000});
        std::vector<Peer> clients;
        for (int i = 0; i < 20; ++i) clients.push_back(test::dial(*listener.address()));
        // The lowest free descriptors that are left: five.
        int last = clients.back().fd();
        int spare[5];
        for (int& each : spare) each = dup(last);
        rlimit low = limit;
        low.rlim_cur = rlim_t(spare[4]) + 1;
        for (int each : spare) ::close(each);
        REQUIRE(setrlimit(RLIMIT_NOFILE, &low) == 0);
        int accepted = 0, ended = 0;
        Result<Thread> acceptor = addthread([&] {
            while (Result<Stream> stream = listener.accept()) {
                ++accepted;
                REQUIRE(addthread([&, stream = std::move(*stream)]() mutable {
                    while (Result<std::string_view> line = stream.receive("*l"))
                        (void)stream.send(std::string{*line} + "\n");
                    ++ended;
                }));
            }
        });
        (void)sleep_for(1_s);
        CHECK_EQ(accepted, 5);
        CHECK_EQ(world.reports, 1);
        CHECK(world.of_call(Call::accept) <= 20);
        for (int i = 0; i < 20; ++i) {
            Peer& client = clients[size_t(i)];
            client.send("hello\n");
            CHECK(client.receive_exactly(6) == "hello\n");
            // Its end, not its descriptor: the one that is freed is the library's.
            Duration before = world.elapsed();
            client.end();
            while (ended == i) (void)yield();
            if (i < 15) {
                while (accepted < i + 6) (void)yield();
                CHECK(world.elapsed() == before);
            }
        }
        CHECK_EQ(accepted, 20);
        (void)acceptor->cancel();
        (void)acceptor->join();
        CHECK(world.reports <= 16);
        REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    });
}

// With more clients than one can take at once -----------------------------------------------------

TEST(a_flood_of_clients_keeps_no_connection_from_its_answer) {
    World world;
    int served = 0, most = 0;
    (void)world.run([&] {
        Result<Server> server = addserver(listening({.backlog = 4096}), [&](Stream& stream) {
            ++served;
            while (stream.receive("*l")) (void)stream.send("pong\n");
        });
        Address address = *server->address();
        Peer client = test::dial(address);
        client.send("ping\n");
        CHECK(client.receive_exactly(5) == "pong\n");
        std::vector<Peer> flood;
        for (int i = 0; i < 1500; ++i) flood.push_back(test::dial(address));
        while (served < 1501) {
            int before = served;
            client.send("ping\n");
            CHECK(client.receive_exactly(5) == "pong\n");
            if (served - before > most) most = served - before;
        }
        flood.clear();
        (void)server->remove();
    });
    CHECK(most <= 300);
}

TEST(a_wake_up_for_nothing_costs_one_question) {
    World world;
    (void)world.run([&] {
        Listener listener = listening();
        Result<Thread> acceptor = addthread([&] {
            CHECK_EQ(listener.accept().error, Error::canceled);
        });
        (void)sleep_for(1_ms);
        uint64_t before = world.of_call(Call::accept);
        for (int i = 1; i <= 100; ++i) {
            world.owe(listener.getfd(), PollEvent::readable | PollEvent::writable);
            (void)sleep_for(1_ms);
            CHECK_EQ(world.of_call(Call::accept) - before, uint64_t(i));
        }
        (void)acceptor->cancel();
        (void)acceptor->join();
    });
}

TEST(without_memory_for_a_connection_it_is_closed_and_the_next_one_is_served) {
    World world;
    bool short_of_memory = true, served = false;
    (void)world.run([&] {
        Listener listener = listening();
        Address address = *listener.address();
        world.fault = [&](Call call, int) {
            return call == Call::allocate && short_of_memory ? ENOMEM : 0;
        };
        int before = test::open_descriptors();
        Peer unlucky = test::dial(address);
        REQUIRE(addthread([&] { served = bool(listener.accept()); }));
        CHECK(unlucky.receive_to_end().empty());
        // The listener's end is closed; an emulator opens descriptors of its own meanwhile.
        if (!test::emulated()) CHECK_EQ(test::open_descriptors(), before + 1);
        CHECK_EQ(world.reports, 1);
        CHECK(world.last_report == Error::no_memory.message());
        short_of_memory = false;
        Peer lucky = test::dial(address);
        (void)sleep_for(101_ms);
        CHECK(served);
    });
}

// Servers -----------------------------------------------------------------------------------------

TEST(a_listener_that_breaks_ends_its_server_and_nothing_else) {
    World world;
    (void)world.run([&] {
        bool broken = false;
        Result<Server> server = addserver(listening(), [](Stream& stream) {
            while (Result<std::string_view> line = stream.receive("*l"))
                (void)stream.send(std::string{*line} + "\n");
        });
        Address address = *server->address();
        Peer client = test::dial(address);
        (void)sleep_for(1_ms);
        CHECK_EQ(server->connections(), 1u);
        world.fault = [&](Call call, int) { return call == Call::accept && broken ? EINVAL : 0; };
        broken = true;
        Peer last = test::dial(address);
        (void)sleep_for(1_ms);
        CHECK_EQ(world.reports, 1);
        CHECK(world.last_report == Error::invalid.message());
        client.send("still\n");
        CHECK(client.receive_exactly(6) == "still\n");
        CHECK_EQ(bind(address).error, Error::none);
        CHECK_EQ(server->remove(), Error::none);
    });
    CHECK_EQ(world.reports, 1);
}

TEST(a_server_without_descriptors_can_be_removed_and_its_queue_handed_on) {
    World world;
    bool hungry = true;
    (void)world.run([&] {
        auto greet = [](Stream& stream) { (void)stream.send("hello"); };
        world.fault = [&](Call call, int) { return call == Call::accept && hungry ? ENFILE : 0; };
        Result<Server> server = addserver(listening(), greet);
        Peer client = test::dial(*server->address());
        (void)sleep_for(1_s);
        CHECK_EQ(world.reports, 1);
        CHECK_EQ(server->remove(true), Error::none);
        Result<Server> next = addserver(server->listener(), greet);
        REQUIRE(next);
        hungry = false;
        Duration before = world.elapsed();
        CHECK(client.receive_to_end() == "hello");
        CHECK(world.elapsed() == before);
        CHECK_EQ(next->remove(), Error::none);
    });
}

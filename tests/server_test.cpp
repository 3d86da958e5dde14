// Server: a thread for each connection, what it is given, and how it all ends.
#include "child.h"
#include "faulty_system.h"
#include "peer.h"
#include "test.h"

#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <vector>

using namespace copse;
using namespace copse::literals;
using test::Call;
using test::Kind;
using test::Peer;
using test::World;

namespace {

Listener listening(ListenOptions options = {}) {
    Result<Listener> listener = bind(test::loopback(), 0, options);
    REQUIRE(listener);
    return std::move(*listener);
}

void echo(Stream& stream) {
    for (;;) {
        Result<std::string_view> line = stream.receive("*l");
        if (!line) return;
        std::string_view pieces[] = {*line, "\n"};
        (void)stream.send(pieces);
    }
}

// In a thread: says a line and hears it back.
bool echoes(const Address& address) {
    Peer client = test::dial(address);
    client.send("hello\n");
    client.end();
    return client.receive_to_end() == "hello\n";
}

}  // namespace

TEST(every_connection_gets_a_thread_of_its_own) {
    World world;
    (void)world.run([&] {
        Result<Server> server = addserver(listening(), echo);
        REQUIRE(server);
        Address address = *server->address();
        std::vector<Peer> clients;
        for (int i = 0; i < 50; ++i) clients.push_back(test::dial(address));
        (void)sleep_for(1_ms);
        CHECK_EQ(server->connections(), 50u);
        // The last comes first.
        for (size_t i = clients.size(); i--;) {
            std::string line = "line " + std::to_string(i) + "\n";
            clients[i].send(line);
            CHECK(clients[i].receive_exactly(line.size()) == line);
        }
        for (Peer& each : clients) each.close();
        (void)sleep_for(1_ms);
        CHECK_EQ(server->connections(), 0u);
        CHECK_EQ(server->remove(), Error::none);
    });
    CHECK_EQ(world.reports, 0);
}

TEST(threads_and_streams_are_named_after_the_server) {
    World world;
    std::vector<std::string> names;
    (void)world.run([&] {
        Result<Server> server = addserver(listening(), [&](Stream& stream) {
            names.push_back(self().name());
            names.push_back(stream.name());
        }, never, "echo");
        CHECK(std::string(server->name()) == "echo");
        for (int i = 0; i < 2; ++i) {
            Peer client = test::dial(*server->address());
            (void)client.receive_to_end();
        }
        (void)server->remove();
        Result<Server> nameless = addserver(listening(), echo);
        CHECK(std::string(nameless->name()) == nameless->address()->format().c_str());
        (void)nameless->remove();
    });
    REQUIRE(names.size() == 4);
    CHECK(names[0] == "echo:handler_1");
    CHECK(names[1] == "echo:client_1");
    CHECK(names[2] == "echo:handler_2");
    CHECK(names[3] == "echo:client_2");
}

TEST(of_a_long_name_the_numbers_are_kept) {
    World world;
    std::string thread_name, stream_name;
    (void)world.run([&] {
        Result<Server> server = addserver(listening(), [&](Stream& stream) {
            thread_name = self().name();
            stream_name = stream.name();
        }, never, "a_server_whose_name_is_longer_than_any_name_may_be");
        Peer client = test::dial(*server->address());
        (void)client.receive_to_end();
        (void)server->remove();
    });
    CHECK_EQ(thread_name.size(), 31u);
    CHECK(thread_name.ends_with(":handler_1"));
    CHECK(thread_name.starts_with("a_server_whose_name"));
    CHECK(stream_name.ends_with(":client_1"));
}

TEST(the_timeout_holds_for_what_the_handler_receives_and_sends) {
    World world;
    Duration receiving, sending;
    Error received, sent;
    (void)world.run([&] {
        Result<Server> server = addserver(listening(), [&](Stream& stream) {
            Time before = now();
            received = stream.receive("*l").error;
            receiving = now() - before;
            world.dam();
            before = now();
            sent = stream.send(std::string(1 << 20, 'x')).error;
            sending = now() - before;
            (void)stream.reset();
        }, 5_s);
        Peer client = test::dial(*server->address());
        (void)sleep_for(20_s);
        (void)server->remove();
    });
    CHECK_EQ(received, Error::timeout);
    CHECK(receiving == 5_s);
    CHECK_EQ(sent, Error::timeout);
    CHECK(sending == 5_s);
}

TEST(without_a_timeout_a_handler_waits_for_ever) {
    World world;
    for (Duration timeout : {never, Duration{-1_s}}) {
        (void)world.run([&] {
            Result<Server> server = addserver(listening(), echo, timeout);
            Peer client = test::dial(*server->address());
            (void)sleep_for(1000000_s);
            client.send("late\n");
            CHECK(client.receive_exactly(5) == "late\n");
            (void)server->remove();
        });
    }
}

// The end of a handler ----------------------------------------------------------------------------

TEST(what_a_handler_sent_last_is_flushed_when_it_returns) {
    World world;
    std::string reply = test::pattern(60000);
    bool same = false;
    (void)world.run([&] {
        Result<Server> server = addserver(listening(), [&](Stream& stream) {
            (void)stream.send(reply);
        });
        world.sends = [](int, size_t) { return size_t{700}; };
        Peer client = test::dial(*server->address());
        client.send("a request that nobody reads");
        same = client.receive_to_end() == reply;
        CHECK_EQ(client.error, 0);
        client.close();
        (void)server->remove();
    });
    world.sends = nullptr;
    CHECK(same);
}

TEST(a_handler_that_throws_closes_its_stream_and_no_other) {
    World world;
    (void)world.run([&] {
        Result<Server> server = addserver(listening(), [&](Stream& stream) {
            while (Result<std::string_view> line = stream.receive("*l")) {
                (void)stream.send("answer\n");
                if (*line == "bad") throw std::runtime_error("a bad line");
                if (*line == "worse") throw 42;
            }
        });
        Address address = *server->address();
        Peer good = test::dial(address), bad = test::dial(address), worse = test::dial(address);
        good.send("good\n");
        bad.send("bad\n");
        worse.send("worse\n");
        CHECK(bad.receive_to_end() == "answer\n");
        CHECK_EQ(bad.error, 0);
        CHECK(worse.receive_to_end() == "answer\n");
        CHECK_EQ(world.reports, 2);
        good.send("good\n");
        CHECK(good.receive_exactly(14) == "answer\nanswer\n");
        CHECK(echoes(address) == false);
        for (Peer* each : {&good, &bad, &worse}) each->close();
        (void)sleep_for(1_ms);
        CHECK_EQ(server->connections(), 0u);
        (void)server->remove();
    });
    CHECK_EQ(world.reports, 2);
}

TEST(the_error_handler_hears_what_was_thrown_and_where) {
    World world;
    static std::string heard, where;
    (void)world.run([&] {
        seterrorhandler([](Thread thread, const char* what, void*) {
            heard = what;
            where = thread.name();
        }, nullptr, true);
        Result<Server> server = addserver(listening(), [](Stream&) {
            throw std::runtime_error("what went wrong");
        }, never, "web");
        Peer client = test::dial(*server->address());
        (void)client.receive_to_end();
        (void)server->remove();
    });
    CHECK(heard == "what went wrong");
    CHECK(where == "web:handler_1");
}

TEST(a_handler_may_keep_the_stream) {
    World world;
    std::vector<Stream> kept;
    (void)world.run([&] {
        Result<Server> server = addserver(listening(), [&](Stream& stream) {
            kept.push_back(std::move(stream));
        });
        Peer client = test::dial(*server->address());
        (void)sleep_for(1_ms);
        REQUIRE(kept.size() == 1);
        CHECK_EQ(server->connections(), 1u);
        (void)kept[0].send("still here");
        CHECK(client.receive_exactly(10) == "still here");
        client.close();
        (void)kept[0].close();
        (void)sleep_for(1_ms);
        CHECK_EQ(server->connections(), 0u);
        (void)server->remove();
    });
}

// The handler object ------------------------------------------------------------------------------

namespace {

struct Tracked {
    int* made;
    int* destroyed;
    int served = 0;
    std::unique_ptr<int> move_only = std::make_unique<int>(0);
    Tracked(int& m, int& d) : made{&m}, destroyed{&d} { ++m; }
    Tracked(Tracked&& other) : made{other.made}, destroyed{other.destroyed} { ++*made; }
    ~Tracked() { ++*destroyed; }
    void operator()(Stream& stream) {
        // All connections share the one object.
        (void)stream.send(std::to_string(++served + (move_only ? 0 : 1000)));
        (void)stream.receive("*a");
    }
};

}  // namespace

TEST(one_handler_object_serves_all_and_goes_with_the_last_of_them) {
    World world;
    int made = 0, destroyed = 0;
    auto alive = [&] { return made - destroyed; };
    (void)world.run([&] {
        Result<Server> server = addserver(listening(), Tracked{made, destroyed});
        CHECK_EQ(alive(), 1);
        Address address = *server->address();
        Peer first = test::dial(address), second = test::dial(address);
        CHECK(first.receive_exactly(1) == "1");
        CHECK(second.receive_exactly(1) == "2");
        Server copy = *server;
        server.value = Server{};
        first.close();
        (void)sleep_for(1_ms);
        CHECK_EQ(copy.remove(), Error::none);
        (void)sleep_for(1_ms);
        copy = Server{};
        CHECK_EQ(alive(), 1);
        second.close();
        (void)sleep_for(1_ms);
        CHECK_EQ(alive(), 0);
    });
    CHECK_EQ(alive(), 0);
}

TEST(a_handle_keeps_the_handler_object_and_answers) {
    World world;
    int made = 0, destroyed = 0;
    {
        Server kept;
        (void)world.run([&] {
            Result<Server> server = addserver(listening(), Tracked{made, destroyed}, never, "kept");
            kept = *server;
            (void)server->remove();
        });
        CHECK_EQ(made - destroyed, 1);
        CHECK(std::string(kept.name()) == "kept");
        CHECK_EQ(kept.connections(), 0u);
        CHECK(kept.address().error);
        CHECK_EQ(kept.remove(), Error::none);
        CHECK(!kept.listener());
        CHECK_EQ(destroy_loop(), Error::none);
        CHECK_EQ(kept.remove(), Error::none);
        Server moved = std::move(kept);
        CHECK(std::string(moved.name()) == "kept");
        Server& same = moved;
        moved = same;
        CHECK(std::string(moved.name()) == "kept");
        CHECK_EQ(made - destroyed, 1);
    }
    CHECK_EQ(made - destroyed, 0);
}

TEST(a_server_goes_on_when_its_handles_are_gone) {
    World world;
    (void)world.run([&] {
        Address address;
        {
            Result<Server> server = addserver(listening(), echo);
            address = *server->address();
        }
        CHECK(echoes(address));
        CHECK(echoes(address));
        cancelall();
    });
}

TEST(no_server_answers_as_one_that_is_gone) {
    World world;
    Server none;
    CHECK_EQ(none.remove(), Error::destroyed);
    CHECK(!none.listener());
    CHECK(std::string(none.name()).empty());
    CHECK_EQ(none.connections(), 0u);
    CHECK_EQ(none.address().error, Error::destroyed);
}

TEST(a_handler_may_want_any_alignment) {
    World world;
    struct alignas(1024) Wide {
        char text[1024];
        void operator()(Stream& stream) {
            CHECK_EQ(uintptr_t(this) % 1024, 0u);
            (void)stream.send(text);
        }
    };
    Wide wide{"aligned"};
    (void)world.run([&] {
        Result<Server> server = addserver(listening(), wide);
        Peer client = test::dial(*server->address());
        CHECK(client.receive_to_end() == "aligned");
        client.close();
        (void)server->remove();
    });
}

TEST(a_plain_function_is_a_handler) {
    World world;
    (void)world.run([&] {
        Result<Server> server = addserver(listening(), &echo);
        CHECK(echoes(*server->address()));
        (void)server->remove();
    });
}

TEST(a_handler_that_cannot_be_copied_leaves_nothing) {
    World world;
    static int destroyed = 0;
    struct Refuses {
        Refuses() = default;
        Refuses(const Refuses&) { throw 1; }
        ~Refuses() { ++destroyed; }
        void operator()(Stream&) {}
    } refuses;
    (void)world.run([&] {
        bool thrown = false;
        int before = test::open_descriptors();
        try {
            (void)addserver(listening(), refuses);
        } catch (int) {
            thrown = true;
        }
        CHECK(thrown);
        CHECK_EQ(destroyed, 0);  // what was never made
        CHECK_EQ(test::open_descriptors(), before);
    });
}

// Removing ----------------------------------------------------------------------------------------

TEST(a_removed_server_lets_its_handlers_go_on) {
    World world;
    (void)world.run([&] {
        Result<Server> server = addserver(listening(), echo);
        Address address = *server->address();
        Peer client = test::dial(address);
        client.send("before\n");
        CHECK(client.receive_exactly(7) == "before\n");
        CHECK_EQ(server->remove(), Error::none);
        CHECK(!server->listener());
        (void)yield();
        CHECK_EQ(bind(address).error, Error::none);
        client.send("after\n");
        CHECK(client.receive_exactly(6) == "after\n");
        CHECK_EQ(server->remove(), Error::none);
    });
    CHECK_EQ(world.reports, 0);
}

TEST(a_connection_is_named_after_the_server_that_accepted_it_whenever_it_is_asked) {
    World world;
    std::vector<Stream> kept;
    (void)world.run([&] {
        auto keep = [&](Stream& stream) { kept.push_back(std::move(stream)); };
        Result<Server> first = addserver(listening(), keep, never, "first");
        Address address = *first->address();
        Peer one = test::dial(address);
        while (kept.size() < 1) (void)sleep_for(1_ms);
        (void)first->remove(true);
        (void)yield();
        Result<Server> second = addserver(first->listener(), keep, never, "second");
        Peer other = test::dial(address), last = test::dial(address);
        while (kept.size() < 3) (void)sleep_for(1_ms);
        CHECK(std::string(kept[0].name()) == "first:client_1");
        CHECK(std::string(kept[1].name()) == "second:client_1");
        world.fault = [](Call call, int) { return call == Call::allocate ? ENOMEM : 0; };
        CHECK(std::string(kept[1].name()) == "second:client_1");
        CHECK(std::string(kept[2].name()).empty());  // there is no memory for it yet
        world.fault = nullptr;
        (void)second->remove();
    });
    CHECK_EQ(destroy_loop(), Error::none);
    CHECK(std::string(kept[2].name()) == "second:client_2");
    CHECK_EQ(kept[2].setname("an orphan"), Error::none);
    CHECK(std::string(kept[2].name()) == "an orphan");
}

TEST(a_connection_that_was_taken_as_the_listener_was_taken_away_is_served_and_named) {
    World world;
    std::vector<std::string> names;
    (void)world.run([&] {
        Result<Server> server = addserver(
            listening(), [&](Stream& stream) { names.push_back(stream.name()); }, never, "first");
        Address address = *server->address();
        auto ends = std::move(*pair());
        Listener taken;
        // Woken before the acceptor, by the same look.
        REQUIRE(addthread([&] {
            CHECK(ends.first.receive(1));
            (void)server->remove(true);
            taken = server->listener();
            CHECK(bool(taken));
        }));
        (void)sleep_for(1_ms);
        CHECK_EQ(ends.second.send("x").error, Error::none);
        CHECK_EQ(ends.second.flush(), Error::none);
        Peer client = test::dial(address);
        (void)sleep_for(1_ms);
        Result<Server> next = addserver(std::move(taken), echo, never, "second");
        CHECK(client.receive_to_end().empty());
        (void)next->remove();
    });
    CHECK_EQ(names.size(), 1u);
    CHECK(names[0] == "first:client_1");
}

TEST(a_connection_outlives_its_server_and_its_loop_without_memory_for_its_name) {
    World world;
    std::vector<Stream> kept;
    (void)world.run([&] {
        Result<Server> server =
            addserver(listening(), [&](Stream& s) { kept.push_back(std::move(s)); }, never, "gone");
        Peer one = test::dial(*server->address()), other = test::dial(*server->address());
        while (kept.size() < 2) (void)sleep_for(1_ms);
        (void)server->remove();
    });
    // Nobody but the connections holds the listener now; the first of them is asked for its name.
    CHECK(std::string(kept[0].name()) == "gone:client_1");
    world.fault = [](Call call, int) { return call == Call::allocate ? ENOMEM : 0; };
    CHECK_EQ(destroy_loop(), Error::none);
    world.fault = nullptr;
    CHECK(std::string(kept[0].name()) == "gone:client_1");
    CHECK(std::string(kept[1].name()).empty());
    kept.clear();
    CHECK_EQ(world.held, 0u);
}

TEST(a_removed_server_may_keep_its_listener_open) {
    World world;
    (void)world.run([&] {
        Result<Server> server = addserver(listening(), echo);
        Address address = *server->address();
        CHECK(!server->listener());
        (void)yield();
        CHECK_EQ(server->remove(true), Error::none);
        // The kernel goes on queueing.
        Peer client = test::dial(address);
        client.send("hello\n");
        client.end();
        (void)sleep_for(1_ms);
        CHECK(client.receive().empty());
        Listener listener = server->listener();
        CHECK(listener && *listener.address() == address);
        CHECK(!server->listener());
        Result<Server> next = addserver(std::move(listener), echo);
        CHECK(client.receive_to_end() == "hello\n");
        CHECK_EQ(next->remove(true), Error::none);
        CHECK_EQ(next->remove(false), Error::none);
        (void)yield();
        CHECK_EQ(bind(address).error, Error::none);
    });
    CHECK_EQ(world.reports, 0);
}

TEST(the_listener_of_a_removed_server_can_be_used_at_once) {
    World world;
    (void)world.run([&] {
        Result<Server> server = addserver(listening(), echo);
        Address address = *server->address();
        (void)sleep_for(1_ms);
        (void)server->remove(true);
        Listener listener = server->listener();
        Peer client = test::dial(address);
        CHECK_EQ(listener.accept().error, Error::none);
    });
}

TEST(a_connection_that_comes_while_the_server_is_removed_is_served_or_kept) {
    World world;
    (void)world.run([&] {
        Result<Server> server = addserver(listening(), echo);
        Address address = *server->address();
        (void)sleep_for(1_ms);
        Peer client = test::dial(address);
        client.send("hello\n");
        client.end();
        (void)server->remove(true);
        Result<Server> next = addserver(server->listener(), echo);
        CHECK(client.receive_to_end() == "hello\n");
        (void)next->remove();
    });
}

TEST(a_handler_may_remove_its_own_server) {
    World world;
    std::optional<Server> server;
    (void)world.run([&] {
        server = *addserver(listening(), [&](Stream& stream) {
            CHECK_EQ(server->remove(), Error::none);
            server.reset();
            (void)stream.send("the last one");
        });
        Peer client = test::dial(*server->address());
        CHECK(client.receive_to_end() == "the last one");
        client.close();
    });
}

TEST(cancelall_ends_servers_and_handlers_and_the_loop_returns) {
    World world;
    int ended = 0;
    Peer client;
    Address address;
    (void)world.run([&] {
        Result<Server> server = addserver(listening(), [&](Stream& stream) {
            struct Mark {
                int& n;
                ~Mark() { ++n; }
            } mark{ended};
            (void)stream.send("goodbye");
            CHECK_EQ(stream.receive("*l").error, Error::canceled);
        });
        address = *server->address();
        client = test::dial(address);
        (void)sleep_for(1_ms);
        cancelall();
    });
    CHECK_EQ(ended, 1);
    CHECK(client.receive() == "goodbye");
    CHECK(client.ended);
    CHECK_EQ(world.reports, 0);
    CHECK_EQ(bind(address).error, Error::none);
}

TEST(a_loop_runs_for_as_long_as_there_is_a_server) {
    World world;
    Result<Server> server = addserver(listening(), echo);
    for (int i = 0; i < 5; ++i) (void)step(0_s);
    CHECK(!finished());
    (void)server->remove();
    CHECK_EQ(loop(), Error::none);
    CHECK(finished());
}

// What is wrong -----------------------------------------------------------------------------------

TEST(a_port_is_served_on_every_address) {
    World world;
    (void)world.run([&] {
        // A port that is free here may be somebody else's on another address.
        Result<Server> server;
        uint16_t port = 0;
        for (int attempt = 0; attempt == 0 || (!server && attempt < 20); ++attempt) {
            port = listening().address()->port();
            server = addserver(port, echo, 5_s, "by port");
        }
        REQUIRE(server);
        CHECK(std::string(server->address()->host().c_str()) == "0.0.0.0");
        CHECK(std::string(server->name()) == "by port");
        CHECK(echoes(*Address::parse("127.0.0.1", port)));
        CHECK_EQ(addserver(port, echo).error.code(), EADDRINUSE);
        (void)server->remove();
    });
}

TEST(what_is_wrong_with_a_listener_is_told_when_the_server_is_added) {
    World world;
    (void)world.run([&] {
        Result<Server> server = addserver(Listener{}, echo);
        CHECK_EQ(server.error, Error::closed);
        Listener closed = listening();
        (void)closed.close();
        CHECK_EQ(addserver(std::move(closed), echo).error, Error::closed);
        CHECK_EQ(addserver(Listener{-1}, echo).error.code(), EBADF);
        auto [a, b] = test::connected_descriptors(Kind::tcp);
        CHECK_EQ(addserver(Listener{a}, echo).error, Error::invalid);
        CHECK_EQ(addserver(Listener{::open("/", O_RDONLY | O_CLOEXEC)}, echo).error,
                 Error::unsupported);
        ::close(b);
    });
    // Outside a thread it is told as well.
    CHECK_EQ(addserver(Listener{-1}, echo).error.code(), EBADF);
    auto [a, b] = test::connected_descriptors(Kind::tcp);
    CHECK_EQ(addserver(Listener{a}, echo).error, Error::invalid);
    ::close(b);
    CHECK_EQ(loop(), Error::none);
    CHECK_EQ(world.reports, 0);
}

TEST(without_memory_no_server_is_added_and_nothing_is_left) {
    World world;
    (void)world.run([&] {
        Listener listener = listening();
        Address address = *listener.address();
        world.fault = [](Call call, int) { return call == Call::allocate ? ENOMEM : 0; };
        CHECK_EQ(addserver(std::move(listener), echo).error, Error::no_memory);
        world.fault = nullptr;
        CHECK_EQ(bind(address).error, Error::none);
        // For the server itself there is some, for its name none.
        int left = 1;
        Listener another = listening();
        Address other = *another.address();
        world.fault = [&](Call call, int) {
            return call == Call::allocate && left-- == 0 ? ENOMEM : 0;
        };
        CHECK_EQ(addserver(std::move(another), echo).error, Error::no_memory);
        world.fault = nullptr;
        CHECK_EQ(bind(other).error, Error::none);
    });
}

TEST(without_memory_for_a_handler_the_connection_is_closed_and_the_server_goes_on) {
    World world;
    std::vector<Thread> sleepers;
    (void)world.run([&] {
        Result<Server> server = addserver(listening(), echo);
        Address address = *server->address();
        (void)sleep_for(1_ms);
        world.fault = [](Call call, int) {
            return call == Call::map || call == Call::allocate ? ENOMEM : 0;
        };
        for (;;) {
            Result<Thread> sleeper = addthread([] { (void)park(); });
            if (!sleeper) break;
            REQUIRE(sleepers.size() < 100000);
            sleepers.push_back(*sleeper);
        }
        // Sockets there may be, threads not.
        world.fault = [](Call call, int) { return call == Call::map ? ENOMEM : 0; };
        Peer unlucky = test::dial(address);
        CHECK(unlucky.receive_to_end().empty());
        CHECK_EQ(world.reports, 1);
        CHECK(world.last_report == Error::no_memory.message());
        (void)sleep_for(200_ms);
        world.fault = nullptr;
        CHECK(echoes(address));
        for (Thread each : sleepers) (void)each.cancel();
        (void)server->remove();
    });
}

TEST(the_number_of_handlers_is_bounded) {
    World world;
    int running = 0, most = 0, served = 0;
    (void)world.run([&] {
        Result<Server> server = addserver(listening({.max_connections = 3}), [&](Stream& stream) {
            if (++running > most) most = running;
            (void)stream.receive("*l");
            --running;
            ++served;
        });
        std::vector<Peer> clients;
        for (int i = 0; i < 20; ++i) clients.push_back(test::dial(*server->address()));
        for (Peer& each : clients) {
            (void)sleep_for(1_ms);
            CHECK_EQ(running, each.fd() == clients.back().fd() ? 1
                     : each.fd() == clients[18].fd()           ? 2
                                                               : 3);
            each.send("line\n");
            each.close();
        }
        (void)sleep_for(1_ms);
        (void)server->remove();
    });
    CHECK_EQ(most, 3);
    CHECK_EQ(served, 20);
}

TEST(ten_thousand_connections_one_after_the_other_leave_nothing) {
    World world{World::real_time};
    uint64_t allocations = 0;
    (void)world.run([&] {
        Result<Server> server = addserver(listening(), echo);
        Address address = *server->address();
        for (int i = 0; i < 10000; ++i) {
            if (i == 100) allocations = status().allocations;
            Result<Stream> client = connect(address);
            REQUIRE(client);
            (void)client->send("hello\n");
            CHECK(client->receive("*l").value == "hello");
            // They end first, so that no port of ours is kept from use.
            (void)client->reset();
        }
        CHECK_EQ(status().allocations, allocations);
        (void)server->remove();
    });
}

// Listener: binding, accepting, and what happens when the kernel or the program runs out of things.
#include "child.h"
#include "faulty_system.h"
#include "peer.h"
#include "test.h"

#include <optional>
#include <sys/resource.h>
#include <sys/stat.h>
#include <vector>

using namespace copse;
using namespace copse::literals;
using test::Call;
using test::Kind;
using test::Peer;
using test::World;

namespace {

std::string temporary_path(const char* name) {
    const char* directory = getenv("TMPDIR");
    return std::string(directory ? directory : "/tmp") + "/copse-" + name + "-" +
           std::to_string(getpid());
}

Listener listening(ListenOptions options = {}) {
    Result<Listener> listener = bind(test::loopback(), 0, options);
    REQUIRE(listener);
    return std::move(*listener);
}

// The next client that has something to say is served.
bool serves(Listener& listener, const Address& address) {
    Peer client = test::dial(address);
    client.send("hello\n");
    Result<Stream> stream = listener.accept();
    return stream && stream->receive("*l").value == "hello";
}

}  // namespace

// Binding -----------------------------------------------------------------------------------------

TEST(port_zero_is_one_that_the_kernel_chose) {
    World world;
    Listener first = listening(), second = listening();
    CHECK(first.address()->port() != 0);
    CHECK(first.address()->port() != second.address()->port());
    CHECK(std::string(first.address()->host().c_str()) == test::loopback());
    CHECK(first && first.getfd() >= 0);
    CHECK_EQ(first.connections(), 0u);
}

TEST(a_star_is_any_address) {
    World world;
    Result<Listener> listener = bind("*", 0);
    REQUIRE(listener);
    CHECK(std::string(listener->address()->host().c_str()) == "0.0.0.0");
    (void)world.run([&] {
        CHECK(serves(*listener, *Address::parse("127.0.0.1", listener->address()->port())));
    });
}

TEST(ipv6_is_listened_on) {
    World world;
    Result<Listener> listener = bind("::1", 0);
    if (!listener) test::skip("no IPv6 here");
    CHECK_EQ(int(listener->address()->family()), int(Address::Family::inet6));
    (void)world.run([&] { CHECK(serves(*listener, *listener->address())); });
}

TEST(a_port_in_use_is_refused) {
    World world;
    Listener first = listening();
    Result<Listener> second = bind(*first.address());
    CHECK_EQ(second.error.code(), EADDRINUSE);
    CHECK(strcmp(second.error.message(), "address already in use") == 0);
    CHECK(!second.value);
    // And free again as soon as it is closed.
    Address address = *first.address();
    (void)first.close();
    CHECK_EQ(bind(address).error, Error::none);
}

TEST(a_port_with_connections_of_the_past_can_be_bound) {
    World world;
    Address address;
    (void)world.run([&] {
        Listener first = listening();
        address = *first.address();
        Peer client = test::dial(address);
        Result<Stream> stream = first.accept();
        // Our side ends first: the kernel remembers the port for a minute.
        (void)stream->close();
        (void)client.receive_to_end();
        client.close();
    });
    CHECK_EQ(bind(address).error, Error::none);
}

TEST(a_privileged_port_is_refused) {
    test::Ended ended = test::in_child([] {
        if (geteuid() == 0 && setuid(65534) != 0) _exit(77);
        Result<Listener> listener = bind("127.0.0.1", 1);
        if (listener) _exit(77);
        CHECK_EQ(listener.error.code(), EACCES);
        CHECK(strcmp(listener.error.message(), "permission denied") == 0);
    });
    if (ended.code() == 77) test::skip("every port is free here");
    CHECK_EQ(ended.status, 0);
}

TEST(an_address_of_another_machine_is_refused) {
    World world;
    CHECK_EQ(bind("192.0.2.1", 0).error.code(), EADDRNOTAVAIL);
}

TEST(what_is_no_address_is_not_found) {
    World world;
    CHECK_EQ(bind("no.such.host", 0).error, Error::not_found);
    CHECK_EQ(bind("", 0).error, Error::not_found);
    CHECK(bind(Address{}).error);
    CHECK_EQ(world.of_call(Call::bind), 0u);
}

TEST(every_refusal_of_the_kernels_is_passed_on_and_leaves_nothing) {
    World world;
    std::string path = temporary_path("refused");
    for (const char* where : {"127.0.0.1:0", path.insert(0, "unix:").c_str()}) {
        for (Call what : {Call::open_socket, Call::bind, Call::listen, Call::poller_add}) {
            world.fault = [&](Call call, int) { return call == what ? ENOBUFS : 0; };
            Result<Listener> listener = bind(*Address::parse(where));
            CHECK_EQ(listener.error.code(), ENOBUFS);
            CHECK(!listener.value);
        }
        world.fault = [&](Call call, int) { return call == Call::allocate ? ENOMEM : 0; };
        (void)bind(*Address::parse(where));
        world.fault = nullptr;
    }
    CHECK(access(path.c_str() + 5, F_OK) != 0);
}

TEST(several_listeners_share_a_port_if_they_all_want_to) {
    World world;
    Result<Listener> first = bind(test::loopback(), 0, {.reuseport = true});
    if (!first) test::skip("ports cannot be shared here");
    Address address = *first->address();
    Result<Listener> second = bind(address, {.reuseport = true});
    CHECK_EQ(second.error, Error::none);
    CHECK_EQ(bind(address).error.code(), EADDRINUSE);
    int served = 0;
    (void)world.run([&] {
        for (Listener* each : {&*first, &*second}) {
            REQUIRE(addthread([&, each] {
                while (Result<Stream> stream = each->accept()) {
                    ++served;
                    if (served == 40) cancelall();
                }
            }));
        }
        std::vector<Peer> clients;
        for (int i = 0; i < 40; ++i) clients.push_back(test::dial(address));
        (void)sleep_for(1_s);
    });
    CHECK_EQ(served, 40);
}

TEST(a_unix_path_is_there_while_it_is_listened_on) {
    World world;
    std::string path = temporary_path("path");
    Address address = *Address::parse("unix:" + path);
    std::optional<Listener> listener{std::move(*bind(address))};
    struct stat about;
    REQUIRE(stat(path.c_str(), &about) == 0);
    CHECK(S_ISSOCK(about.st_mode));
    CHECK(*listener->address() == address);
    CHECK_EQ(bind(address).error.code(), EADDRINUSE);
    (void)world.run([&] { CHECK(serves(*listener, address)); });
    CHECK(stat(path.c_str(), &about) == 0);
    listener.reset();
    CHECK(stat(path.c_str(), &about) != 0);
    // Closing it, or taking down the loop, does the same.
    Result<Listener> closed = bind(address);
    REQUIRE(closed);
    CHECK_EQ(closed->close(), Error::none);
    CHECK(stat(path.c_str(), &about) != 0);
    Result<Listener> forgotten = bind(address);
    REQUIRE(forgotten);
    CHECK_EQ(destroy_loop(), Error::none);
    CHECK(stat(path.c_str(), &about) != 0);
}

TEST(a_unix_path_that_was_there_before_is_left_alone) {
    World world;
    std::string path = temporary_path("file");
    int fd = open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    REQUIRE(fd >= 0);
    close(fd);
    CHECK_EQ(bind(*Address::parse("unix:" + path)).error.code(), EADDRINUSE);
    CHECK(access(path.c_str(), F_OK) == 0);
    unlink(path.c_str());
}

TEST(a_listening_descriptor_can_be_taken_over) {
    World world;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    REQUIRE(listen(fd, 5) == 0);
    Listener listener{fd};
    CHECK_EQ(listener.getfd(), fd);
    CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    (void)world.run([&] {
        Address address = *Address::parse("127.0.0.1", listener.address()->port());
        CHECK(serves(listener, address));
        Peer client = test::dial(address);
        CHECK_EQ(*listener.accept()->getoption(Option::tcp_nodelay), 1);
    });
    CHECK_EQ(listener.close(), Error::none);
    CHECK(fcntl(fd, F_GETFD) < 0);
}

TEST(what_does_not_listen_is_no_listener) {
    World world;
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    auto [a, b] = test::connected_descriptors(Kind::tcp);
    int file = open("/", O_RDONLY | O_CLOEXEC);
    struct {
        int fd;
        Error error;
    } cases[] = {{ends[0], Error::invalid},
                 {a, Error::invalid},
                 {socket(AF_INET, SOCK_STREAM, 0), Error::invalid},
                 {file, Error::unsupported},
                 {-1, Error::from_errno(EBADF)},
                 {1000000, Error::from_errno(EBADF)}};
    (void)world.run([&] {
        for (const auto& each : cases) {
            Listener listener{each.fd};
            CHECK_EQ(listener.accept().error, each.error);
            CHECK_EQ(listener.accept().error, each.error);
            CHECK_EQ(listener.close(), Error::none);
            CHECK_EQ(listener.accept().error.code() != 0, true);
            if (each.fd >= 0) CHECK(fcntl(each.fd, F_GETFD) < 0);
        }
        CHECK(world.elapsed() == 0_s);
    });
    close(ends[1]);
    close(b);
}

TEST(an_empty_listener_is_closed) {
    World world;
    Listener none;
    (void)world.run([&] { CHECK_EQ(none.accept().error, Error::closed); });
    CHECK_EQ(none.address().error, Error::closed);
    CHECK_EQ(none.close(), Error::none);
    CHECK_EQ(none.connections(), 0u);
    CHECK_EQ(none.setoption(Option::reuseaddr, 1), Error::closed);
    CHECK_EQ(none.getoption(Option::reuseaddr).error, Error::closed);
    CHECK_EQ(none.getfd(), -1);
    CHECK(!none);
}

TEST(a_listener_moves) {
    World world;
    Listener first = listening(), second = listening();
    Address first_address = *first.address(), second_address = *second.address();
    Listener moved = std::move(first);
    CHECK(*moved.address() == first_address);
    CHECK(!first);
    // What is overwritten is closed.
    moved = std::move(second);
    CHECK(*moved.address() == second_address);
    CHECK_EQ(bind(first_address).error, Error::none);
    Listener& same = moved;
    moved = std::move(same);
    CHECK(*moved.address() == second_address);
    (void)world.run([&] { CHECK(serves(moved, second_address)); });
    moved = Listener{};
    CHECK(!moved);
    CHECK_EQ(bind(second_address).error, Error::none);
}

// Accepting ---------------------------------------------------------------------------------------

TEST(a_connection_that_waits_is_accepted_and_one_that_does_not_is_waited_for) {
    World world;
    Listener listener = listening();
    Address address = *listener.address();
    (void)world.run([&] {
        Peer early = test::dial(address), late;
        Result<Stream> stream = listener.accept();
        CHECK_EQ(stream.error, Error::none);
        CHECK_EQ(listener.connections(), 1u);
        CHECK_EQ(*stream->getoption(Option::tcp_nodelay), 1);
        int fd = stream->getfd();
        CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
        CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        REQUIRE(addthread([&] {
            (void)sleep_for(1_s);
            late = test::dial(address);
        }));
        CHECK_EQ(listener.accept().error, Error::none);
        CHECK(world.elapsed() == 1_s);
        early.close();
        late.close();
    });
    CHECK_EQ(listener.connections(), 0u);
}

TEST(the_addresses_of_an_accepted_connection_are_known) {
    World world;
    Listener listener = listening();
    (void)world.run([&] {
        Peer client = test::dial(*listener.address());
        Address own;
        socklen_t size = Address::capacity;
        getsockname(client.fd(), own.raw(), &size);
        own.setsize(size);
        Result<Stream> stream = listener.accept();
        CHECK(*stream->getpeername() == own);
        CHECK(*stream->getsockname() == *listener.address());
    });
}

TEST(a_second_acceptor_is_busy) {
    World world;
    Listener listener = listening();
    (void)world.run([&] {
        REQUIRE(addthread([&] { CHECK_EQ(listener.accept().error, Error::none); }));
        (void)yield();
        CHECK_EQ(listener.accept().error, Error::busy);
        Peer client = test::dial(*listener.address());
        (void)sleep_for(1_ms);
        client = test::dial(*listener.address());
        CHECK_EQ(listener.accept().error, Error::none);
    });
}

TEST(outside_a_thread_nobody_accepts) {
    World world;
    Listener listener = listening();
    Peer client = test::dial(*listener.address());
    CHECK_EQ(listener.accept().error, Error::not_a_thread);
    (void)world.run([&] { CHECK_EQ(listener.accept().error, Error::none); });
}

TEST(errors_of_the_connection_are_not_the_listeners) {
    World world;
    Listener listener = listening();
    Address address = *listener.address();
    (void)world.run([&] {
        for (int number : {ECONNABORTED, EPROTO, ENETDOWN, ENOPROTOOPT, EHOSTDOWN, ENONET,
                           EHOSTUNREACH, EOPNOTSUPP, ENETUNREACH, EPERM, EINTR, EAGAIN}) {
            for (int times : {1, 5, 100}) {
                int left = times;
                world.fault = [&](Call call, int) {
                    return call == Call::accept && left-- > 0 ? number : 0;
                };
                CHECK(serves(listener, address));
                CHECK(left < 0);
            }
        }
        world.fault = nullptr;
    });
}

TEST(errors_of_the_listener_are_returned) {
    World world;
    Listener listener = listening();
    Address address = *listener.address();
    (void)world.run([&] {
        Peer client = test::dial(address);
        for (int number : {EBADF, EINVAL, ENOTSOCK, EFAULT}) {
            world.fault = [&](Call call, int) { return call == Call::accept ? number : 0; };
            CHECK_EQ(listener.accept().error.code(), number);
        }
        world.fault = nullptr;
        CHECK_EQ(listener.accept().error, Error::none);
    });
}

TEST(a_kernel_that_never_stops_complaining_of_peers_is_left_alone_now_and_then) {
    World world;
    Listener listener = listening();
    Address address = *listener.address();
    (void)world.run([&] {
        bool complains = true, served = false;
        uint64_t before = world.of_call(Call::accept);
        world.fault = [&](Call call, int) {
            return call == Call::accept && complains ? ECONNABORTED : 0;
        };
        Peer client = test::dial(address);
        REQUIRE(addthread([&] { served = bool(listener.accept()); }));
        (void)sleep_for(1_s);
        CHECK(!served);
        CHECK(world.of_call(Call::accept) - before <= 11000);
        CHECK_EQ(world.reports, 1);
        complains = false;
        (void)sleep_for(1_s);
        CHECK(served);
    });
}

TEST(others_run_after_sixteen_connections) {
    World world;
    Listener listener = listening();
    std::vector<Peer> clients;
    for (int i = 0; i < 200; ++i) clients.push_back(test::dial(*listener.address()));
    int accepted = 0, since = 0, most = 0;
    (void)world.run([&] {
        REQUIRE(addthread([&] {
            std::vector<Stream> streams;
            while (accepted < 200) {
                streams.push_back(std::move(*listener.accept()));
                ++accepted;
                if (++since > most) most = since;
            }
            for (Stream& each : streams) (void)each.reset();
        }));
        while (accepted < 200) {
            (void)yield();
            since = 0;
        }
    });
    CHECK(most <= 16);
}

TEST(clients_that_hang_up_before_they_are_accepted_do_no_harm) {
    World world;
    Listener listener = listening();
    Address address = *listener.address();
    constexpr int storms = 100, clients = 100;
    int accepted = 0;
    (void)world.run([&] {
        Result<Thread> acceptor = addthread([&] {
            while (Result<Stream> stream = listener.accept()) {
                ++accepted;
                (void)stream->send("hello");
                CHECK(!stream->receive("*l"));
            }
        });
        for (int storm = 0; storm < storms; ++storm) {
            for (int i = 0; i < clients; ++i) {
                Peer client = test::dial(address);
                client.reset();
            }
            (void)sleep_for(1_ms);
        }
        (void)acceptor->cancel();
        (void)acceptor->join();
        CHECK(serves(listener, address));
    });
    CHECK(accepted <= storms * clients);
    CHECK_EQ(listener.connections(), 0u);
}

// Running out of things ---------------------------------------------------------------------------

TEST(at_the_limit_of_connections_the_next_one_waits_for_an_end) {
    World world;
    Listener listener = listening({.max_connections = 2});
    Address address = *listener.address();
    (void)world.run([&] {
        std::vector<Peer> clients;
        for (int i = 0; i < 3; ++i) clients.push_back(test::dial(address));
        Result<Stream> first = listener.accept(), second = listener.accept();
        CHECK_EQ(listener.connections(), 2u);
        bool third = false;
        REQUIRE(addthread([&] { third = bool(listener.accept()); }));
        uint64_t asked = world.of_call(Call::accept);
        (void)sleep_for(1000_s);
        CHECK(!third);
        CHECK_EQ(world.of_call(Call::accept), asked);
        CHECK_EQ(first->reset(), Error::none);
        (void)yield();
        (void)yield();
        CHECK(third);
        for (Peer& each : clients) each.close();
    });
}

TEST(without_a_limit_some_descriptors_are_left_to_the_program) {
    World world;
    world.descriptor_limit = [](const System&) { return size_t{50}; };
    Listener listener = listening();
    Address address = *listener.address();
    (void)world.run([&] {
        std::vector<Peer> clients;
        std::vector<Stream> streams;
        for (int i = 0; i < 60; ++i) clients.push_back(test::dial(address));
        REQUIRE(addthread([&] {
            while (Result<Stream> stream = listener.accept()) streams.push_back(std::move(*stream));
        }));
        (void)sleep_for(1_s);
        CHECK(streams.size() > 20 && streams.size() < 40);
        cancelall();
        for (Peer& each : clients) each.close();
        (void)yield();
        streams.clear();
    });
}

namespace {

// The acceptor finds no descriptor for `hungry` seconds while an echo goes on beside it.
void check_hunger(int number, bool freed) {
    World world;
    Listener listener = listening();
    Address address = *listener.address();
    test::Connected other, victim;
    bool hungry = true, served = false;
    (void)world.run([&] {
        world.fault = [&](Call call, int) { return call == Call::accept && hungry ? number : 0; };
        Peer client = test::dial(address);
        REQUIRE(addthread([&] { served = bool(listener.accept()); }));
        uint64_t polls = world.of_call(Call::poller_wait), asked = world.of_call(Call::accept);
        for (int i = 0; i < 100; ++i) {
            other.peer.send("ping\n");
            CHECK(other.stream.receive("*l").value == "ping");
            (void)sleep_for(100_ms);
        }
        CHECK(!served);
        // Ten seconds: it asks ten times a second, and says so once.
        CHECK(world.of_call(Call::accept) - asked <= 110);
        CHECK(world.of_call(Call::poller_wait) - polls <= 600);
        CHECK_EQ(world.reports, 1);
        CHECK(world.last_report == Error::from_errno(number).message());
        hungry = false;
        Time before = now();
        if (freed) {
            (void)victim.stream.reset();
            (void)yield();
            (void)yield();
            CHECK(served);
        }
        while (!served) (void)sleep_for(1_ms);
        CHECK(now() - before <= 101_ms);
        // The next time is another episode.
        hungry = true;
        Peer another = test::dial(address);
        REQUIRE(addthread([&] { CHECK_EQ(listener.accept().error, Error::none); }));
        (void)sleep_for(1_s);
        CHECK_EQ(world.reports, 2);
        hungry = false;
        (void)sleep_for(1_s);
    });
    world.fault = nullptr;
}

}  // namespace

TEST(without_descriptors_accepting_is_calm_and_goes_on_in_time) {
    for (int number : {EMFILE, ENFILE, ENOBUFS, ENOMEM}) check_hunger(number, false);
}

TEST(a_descriptor_that_is_freed_is_used_at_once) {
    for (int number : {EMFILE, ENFILE, ENOBUFS, ENOMEM}) check_hunger(number, true);
}

TEST(a_connection_that_cannot_be_watched_costs_the_listener_nothing) {
    World world;
    Listener listener = listening();
    Address address = *listener.address();
    (void)world.run([&] {
        for (int number : {ENOSPC, ENOMEM}) {
            int failures = 3;
            world.fault = [&](Call call, int) {
                return call == Call::poller_add && failures-- > 0 ? number : 0;
            };
            std::vector<Peer> lost;
            for (int i = 0; i < 3; ++i) lost.push_back(test::dial(address));
            bool served = false;
            REQUIRE(addthread([&] { served = bool(listener.accept()); }));
            (void)sleep_for(1_s);
            lost.push_back(test::dial(address));
            (void)sleep_for(1_s);
            CHECK(served);
        }
        world.fault = nullptr;
    });
    CHECK_EQ(listener.connections(), 0u);
}

TEST(without_descriptors_for_real_everybody_is_served_in_the_end) {
    if (test::sanitized) test::skip("the sanitizers want descriptors of their own");
    int ports[2];
    REQUIRE(pipe2(ports, O_CLOEXEC) == 0);
    constexpr int clients = 150;
    const std::string host = test::loopback();
    fflush(nullptr);
    pid_t child = fork();
    if (child < 0) test::skip("no fork here");
    if (child == 0) {
        // Many clients, all connected before the first says a word; then each gets its answer.
        uint16_t port = 0;
        if (read(ports[0], &port, sizeof port) != ssize_t(sizeof port)) _exit(1);
        Address to = *Address::parse(host, port);
        std::vector<int> sockets;
        for (int i = 0; i < clients; ++i) {
            sockets.push_back(socket(AF_INET, SOCK_STREAM, 0));
            if (connect(sockets.back(), to.raw(), to.size())) _exit(2);
        }
        for (int each : sockets) {
            char answer = 0;
            if (write(each, "x", 1) != 1 || read(each, &answer, 1) != 1 || answer != 'x') _exit(3);
            close(each);
        }
        _exit(0);
    }
    rlimit limit{};
    getrlimit(RLIMIT_NOFILE, &limit);
    {
        int served = 0;
        World world{World::real_time};
        rlimit low = limit;
        low.rlim_cur = 40;
        setrlimit(RLIMIT_NOFILE, &low);
        Listener listener = listening({.max_connections = 1000});
        uint16_t port = listener.address()->port();
        REQUIRE(write(ports[1], &port, sizeof port) == ssize_t(sizeof port));
        (void)world.run([&] {
            while (served < clients) {
                Result<Stream> stream = listener.accept();
                CHECK_EQ(stream.error, Error::none);
                ++served;
                REQUIRE(addthread([stream = std::move(*stream)]() mutable {
                    std::string byte{*stream.receive(1)};
                    (void)stream.send(byte);
                }));
            }
        });
        CHECK_EQ(served, clients);
        CHECK(world.reports >= 1);
        CHECK(world.of_call(Call::accept) < 2000);
    }
    setrlimit(RLIMIT_NOFILE, &limit);
    CHECK_EQ(test::status_of(child), 0);
    for (int end : ports) close(end);
}

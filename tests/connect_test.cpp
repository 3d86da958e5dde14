// Connect: when there is a connection, when there is none, and why.
#include "faulty_system.h"
#include "peer.h"
#include "test.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <vector>

using namespace copse;
using namespace copse::literals;
using test::Call;
using test::Peer;
using test::World;

// libc's, with a signal that comes now and then when the connection is on its way.
static int interrupted_connects = 0;
#ifdef SYS_connect
extern "C" int counting_connect(int fd, const sockaddr* to, socklen_t size) __asm__("connect");
extern "C" int counting_connect(int fd, const sockaddr* to, socklen_t size) {
    int result = int(syscall(SYS_connect, fd, to, size));
    if (interrupted_connects > 0 && (result == 0 || errno == EINPROGRESS)) {
        --interrupted_connects;
        errno = EINTR;
        return -1;
    }
    return result;
}
#endif

namespace {

// A port of our loopback address on which nobody listens.
uint16_t dead_port() {
    Result<Listener> listener = bind(test::loopback(), 0);
    REQUIRE(listener);
    return listener->address()->port();
}

std::string temporary_path(const char* name) {
    const char* directory = getenv("TMPDIR");
    return std::string(directory ? directory : "/tmp") + "/copse-" + name + "-" +
           std::to_string(getpid());
}

// No connection is ever answered. The kernel says of a socket that was not really connected that it
// hung up: to be told so once is part of it, but a level-triggered poller would never stop.
void stay_on_the_way(World& world) {
    world.fault = [&](Call call, int fd) {
        if (call != Call::connect) return 0;
        if (world.poller_rearm) world.mute(fd);
        return EINPROGRESS;
    };
}

// Listens, and echoes the first line of the first client.
void echo_once(Listener& listener) {
    REQUIRE(addthread([&] {
        Result<Stream> client = listener.accept();
        REQUIRE(client);
        std::string line{*client->receive("*l")};
        (void)client->send(line + "\n");
    }));
}

void check_echo(const Address& address) {
    Result<Listener> listener = bind(address);
    REQUIRE(listener);
    echo_once(*listener);
    Result<Stream> stream = connect(*listener->address());
    CHECK_EQ(stream.error, Error::none);
    (void)stream->send("hello\n");
    CHECK(stream->receive("*l").value == "hello");
    CHECK(*stream->getpeername() == *listener->address());
    (void)stream->close();
}

}  // namespace

TEST(a_connection_is_made_over_every_kind_of_address) {
    World world;
    std::string path = "unix:" + temporary_path("connect");
    std::string hidden = "unix:@copse-connect-" + std::to_string(getpid());
    std::string here = std::string(test::loopback()) + ":0";
    (void)world.run([&] {
        check_echo(*Address::parse(here));
        check_echo(*Address::parse(path));
#ifdef __linux__
        check_echo(*Address::parse(hidden));
#endif
    });
    CHECK(access(path.c_str() + 5, F_OK) != 0);
}

TEST(a_connection_is_made_over_ipv6) {
    World world;
    (void)world.run([&] {
        if (!bind("::1", 0)) test::skip("no IPv6 here");
        check_echo(*Address::parse("[::1]:0"));
    });
}

TEST(a_host_and_a_port_are_connected_to) {
    World world;
    (void)world.run([&] {
        Result<Listener> listener = bind("localhost", 0);
        REQUIRE(listener);
        Result<Stream> stream = connect("localhost", listener->address()->port());
        CHECK_EQ(stream.error, Error::none);
        CHECK_EQ(*stream->getoption(Option::tcp_nodelay), 1);
        CHECK_EQ(*stream->getoption(Option::error), 0);
    });
}

TEST(where_nobody_listens_it_is_refused) {
    World world;
    (void)world.run([&] {
        Result<Stream> stream = connect(test::loopback(), dead_port());
        CHECK_EQ(stream.error.code(), ECONNREFUSED);
        CHECK(strcmp(stream.error.message(), "connection refused") == 0);
        CHECK(!stream.value);
        std::string path = "unix:" + temporary_path("absent");
        CHECK_EQ(connect(*Address::parse(path)).error.code(), ENOENT);
        std::string hidden = "unix:@" + temporary_path("absent");
        CHECK_EQ(connect(*Address::parse(hidden)).error.code(), ECONNREFUSED);
    });
}

TEST(what_is_no_address_is_not_found) {
    World world;
    (void)world.run([&] {
        CHECK_EQ(connect("no.such.host", 80).error, Error::not_found);
        CHECK_EQ(connect("", 80).error, Error::not_found);
        CHECK(connect(Address{}).error);
        CHECK_EQ(world.of_call(Call::connect), 0u);
    });
}

TEST(outside_a_thread_nobody_connects) {
    World world;
    Result<Listener> listener = bind(test::loopback(), 0);
    REQUIRE(listener);
    CHECK_EQ(connect(*listener->address()).error, Error::not_a_thread);
    CHECK_EQ(world.of_call(Call::connect), 0u);
}

TEST(every_refusal_of_the_kernels_is_passed_on) {
    World world;
    (void)world.run([&] {
        for (int number :
             {ENETUNREACH, EHOSTUNREACH, EACCES, EPERM, ENETDOWN, ENOBUFS, ETIMEDOUT}) {
            world.fault = [&](Call call, int) { return call == Call::connect ? number : 0; };
            Error error = connect(test::loopback(), 1).error;
            CHECK_EQ(error.code(), number);
        }
        world.fault = nullptr;
        uint16_t port = dead_port();
        for (Call what : {Call::open_socket, Call::poller_add, Call::get_option}) {
            world.fault = [&](Call call, int) { return call == what ? ENOBUFS : 0; };
            CHECK_EQ(connect(test::loopback(), port).error.code(), ENOBUFS);
        }
        world.fault = nullptr;
    });
}

TEST(a_connection_that_is_never_answered_times_out) {
    World world;
    stay_on_the_way(world);
    (void)world.run([&] {
        Time before = now();
        CHECK_EQ(connect(test::loopback(), 1, 10_s).error, Error::timeout);
        CHECK(now() - before == 10_s);
        CHECK_EQ(connect(test::loopback(), 1, 0_s).error, Error::timeout);
        CHECK(now() - before == 10_s);
        Timeout scope{5_s};
        CHECK_EQ(connect(test::loopback(), 1).error, Error::timeout);
        CHECK(now() - before == 15_s);
    });
    CHECK(world.of_call(Call::poller_wait) < 50);
}

TEST(a_connection_that_is_canceled_leaves_no_descriptor) {
    World world;
    stay_on_the_way(world);
    (void)world.run([&] {
        int before = test::open_descriptors();
        Result<Thread> thread = addthread([] {
            CHECK_EQ(connect(test::loopback(), 1).error, Error::canceled);
        });
        (void)sleep_for(1_ms);
        CHECK_EQ(test::open_descriptors(), before + 1);
        (void)thread->cancel();
        (void)thread->join();
        CHECK_EQ(test::open_descriptors(), before);
    });
}

TEST(a_late_refusal_is_read_off_the_socket) {
    World world;
    Address to = *Address::parse(test::loopback(), dead_port());
    int fd = -1;
    world.fault = [&](Call call, int number) {
        if (call != Call::connect) return 0;
        fd = number;
        world.mute(fd);
        return EINPROGRESS;
    };
    (void)world.run([&] {
        Error error;
        Result<Thread> thread = addthread([&] {
            error = connect(test::loopback(), 1, 10_s).error;
        });
        (void)sleep_for(1_ms);
        // Only now is it really tried.
        (void)::connect(fd, to.raw(), to.size());
        world.unmute(fd);
        (void)thread->join();
        CHECK_EQ(error.code(), ECONNREFUSED);
    });
    world.fault = nullptr;
}

TEST(a_signal_while_connecting_is_no_failure) {
#ifndef SYS_connect
    test::skip("the system call cannot be made by number here");
#endif
    World world;
    (void)world.run([&] {
        std::string here = std::string(test::loopback()) + ":0";
        std::string hidden = "unix:@copse-signal-" + std::to_string(getpid());
        for (const char* where : {here.c_str(), hidden.c_str()}) {
            interrupted_connects = 1;
            check_echo(*Address::parse(where));
            CHECK_EQ(interrupted_connects, 0);
        }
    });
}

TEST(a_connection_is_never_with_itself) {
    World world;
    (void)world.run([&] {
        // The kernel is made to choose the very port that is dialled.
        uint16_t port = dead_port();
        world.fault = [&](Call call, int fd) {
            if (call != Call::connect) return 0;
            Address own = *Address::parse(test::loopback(), port);
            CHECK_EQ(::bind(fd, own.raw(), own.size()), 0);
            return 0;
        };
        Result<Stream> stream = connect(test::loopback(), port);
        world.fault = nullptr;
        CHECK_EQ(stream.error.code(), ECONNREFUSED);
        // It was tried again, and not for ever.
        CHECK(world.of_call(Call::connect) > 1 && world.of_call(Call::connect) < 10);
    });
}

TEST(a_connection_with_itself_that_is_made_at_once_is_none_either) {
    World world;
    (void)world.run([&] {
        uint16_t port = dead_port();
        world.connect = [](const System& s, int fd, const sockaddr* to, socklen_t size) {
            CHECK_EQ(::bind(fd, to, size), 0);
            int result = production_system.connect(s, fd, to, size);
            return result == -EINPROGRESS ? 0 : result;
        };
        CHECK_EQ(connect(test::loopback(), port).error.code(), ECONNREFUSED);
    });
}

TEST(a_free_port_of_our_own_is_refused_however_often_it_is_dialled) {
    World world;
    (void)world.run([&] {
        uint16_t port = dead_port();
        for (int i = 0; i < 3000; ++i) {
            Result<Stream> stream = connect(test::loopback(), port);
            CHECK_EQ(stream.error.code(), ECONNREFUSED);
        }
    });
}

TEST(a_port_that_was_taken_meanwhile_is_chosen_anew) {
    World world;
    (void)world.run([&] {
        Result<Listener> listener = bind(test::loopback(), 0);
        int refused = 2;
        world.fault = [&](Call call, int) {
            return call == Call::connect && refused-- > 0 ? EADDRNOTAVAIL : 0;
        };
        CHECK_EQ(connect(*listener->address()).error, Error::none);
        refused = 1000;
        CHECK_EQ(connect(*listener->address()).error.code(), EADDRNOTAVAIL);
        CHECK(refused > 900);
        world.fault = nullptr;
    });
}

#ifdef __linux__
TEST(a_full_unix_queue_is_waited_for) {
    World world;
    std::string hidden = "unix:@copse-queue-" + std::to_string(getpid());
    Address address = *Address::parse(hidden);
    (void)world.run([&] {
        Result<Listener> listener = bind(address, {.backlog = 1});
        REQUIRE(listener);
        std::vector<Peer> queue;
        for (;;) {
            int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
            int failed = ::connect(fd, address.raw(), address.size());
            queue.emplace_back(fd);
            if (failed) break;
            REQUIRE(queue.size() < 100);
        }
        size_t queued = queue.size() - 1;
        int before = test::open_descriptors();
        // There is no room and no sign of it either.
        Time began = now();
        CHECK_EQ(connect(address, 50_ms).error, Error::timeout);
        CHECK(now() - began == 50_ms);
        {
            Timeout scope{50_ms};
            CHECK_EQ(connect(address).error, Error::timeout);
        }
        Result<Thread> canceled = addthread([&] {
            CHECK_EQ(connect(address).error, Error::canceled);
        });
        (void)sleep_for(10_ms);
        (void)canceled->cancel();
        (void)canceled->join();
        CHECK_EQ(test::open_descriptors(), before);
        // Longer than any number of attempts would last.
        bool made = false;
        REQUIRE(addthread([&] { made = bool(connect(address)); }));
        (void)sleep_for(1_s);
        CHECK(!made);
        for (size_t i = 0; i < queued; ++i) (void)listener->accept();
        (void)sleep_for(2_ms);
        CHECK(made);
    });
}
#endif

TEST(a_thousand_connections_at_once_are_all_made) {
    World world{World::real_time};
    int made = 0;
    (void)world.run([&] {
        Result<Listener> listener = bind(test::loopback(), 0);
        REQUIRE(listener);
        Address address = *listener->address();
        REQUIRE(addthread([&, listener = std::move(*listener)]() mutable {
            for (int i = 0; i < 1000; ++i) {
                Result<Stream> stream = listener.accept();
                CHECK_EQ(stream.error, Error::none);
                (void)stream->send("hello");
            }
        }));
        for (int i = 0; i < 1000; ++i) {
            REQUIRE(addthread([&made, address] {
                Result<Stream> stream = connect(address);
                CHECK_EQ(stream.error, Error::none);
                made += stream->receive("*a").value == "hello";
            }));
        }
    });
    CHECK_EQ(made, 1000);
}

// Stream: whose descriptor it is, what can be asked of it, and what it costs.
#include "child.h"
#include "faulty_system.h"
#include "peer.h"
#include "test.h"

#include <optional>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <vector>

using namespace copse;
using namespace copse::literals;
using test::Call;
using test::Connected;
using test::Kind;
using test::Peer;
using test::World;

// libc's, each interrupted by a signal every other time.
static bool signals_come = false;
static bool interrupted() {
    static unsigned calls = 0;
    if (!signals_come || ++calls % 2) return false;
    errno = EINTR;
    return true;
}
#if defined(SYS_recvfrom) && defined(SYS_sendmsg) && defined(SYS_accept4)
extern "C" ssize_t counting_recv(int fd, void* out, size_t size, int flags) __asm__("recv");
extern "C" ssize_t counting_recv(int fd, void* out, size_t size, int flags) {
    return interrupted() ? -1 : syscall(SYS_recvfrom, fd, out, size, flags, nullptr, nullptr);
}
extern "C" ssize_t counting_sendmsg(int fd, const msghdr* message, int flags) __asm__("sendmsg");
extern "C" ssize_t counting_sendmsg(int fd, const msghdr* message, int flags) {
    return interrupted() ? -1 : syscall(SYS_sendmsg, fd, message, flags);
}
extern "C" int counting_accept(int fd, sockaddr* from, socklen_t*, int flags) __asm__("accept4");
extern "C" int counting_accept(int fd, sockaddr* from, socklen_t* size, int flags) {
    return interrupted() ? -1 : int(syscall(SYS_accept4, fd, from, size, flags));
}
constexpr bool can_interrupt = true;
#else
constexpr bool can_interrupt = false;
#endif

namespace {

// Everything that can be asked of a stream, and what each answers.
std::vector<Error> every_call(Stream& stream) {
    static char room[4];
    std::string_view pieces[] = {"x"};
    return {stream.receive("*l").error,
            stream.receive("*a").error,
            stream.receive(1).error,
            stream.receive(0).error,
            stream.receivepartial("*l").error,
            stream.receive(std::span<char>(room)).error,
            stream.receive_some(std::span<char>(room)).error,
            stream.send("x").error,
            stream.send("xyz", 2).error,
            stream.send(pieces).error,
            stream.flush(),
            stream.shutdown(),
            stream.shutdown(How::send),
            stream.shutdown(How::receive),
            stream.setoption(Option::keepalive, 1),
            stream.setoption(Option::bindtodevice, "lo"),
            stream.getoption(Option::keepalive).error,
            stream.getpeername().error,
            stream.reset()};
}

void check_every_call(Stream& stream, Error expected, int line) {
    int number = 0;
    for (Error error : every_call(stream)) {
        if (error != expected || error.code() != expected.code()) {
            test::fail(__FILE__, line, "every call says what is wrong");
            fprintf(stderr, "    call %d: %s\n", number, error.message());
        }
        ++number;
    }
}

}  // namespace

// Handles -----------------------------------------------------------------------------------------

TEST(an_empty_stream_is_closed) {
    World world;
    Stream none;
    (void)world.run([&] { check_every_call(none, Error::closed, __LINE__); });
    check_every_call(none, Error::closed, __LINE__);
    CHECK_EQ(none.close(), Error::none);
    CHECK_EQ(none.getfd(), -1);
    CHECK(!none);
    CHECK(!none.dirty());
    CHECK_EQ(none.getsockname().error, Error::closed);
    CHECK_EQ(none.getstats().received, 0u);
    CHECK(std::string(none.name()).empty());
    CHECK_EQ(none.setname("nobody"), Error::closed);
    none.settimeout(1_s);
    none.setlimit(1, 1);
    CHECK(none.receive("*l", "prefix").value == "prefix");
    CHECK_EQ(*none.send("abc", 2), 1u);
}

TEST(a_stream_moves_with_all_it_has) {
    World world;
    Connected c;
    (void)world.run([&] {
        c.peer.send("line\nrest\n");
        CHECK(c.stream.receive("*l").value == "line");
        (void)c.stream.send("unsent");
        c.stream.setname("mover");
        Stream moved = std::move(c.stream);
        CHECK(!c.stream);
        check_every_call(c.stream, Error::closed, __LINE__);
        CHECK(moved.dirty());
        CHECK(std::string(moved.name()) == "mover");
        CHECK(moved.receive("*l").value == "rest");
        Stream& same = moved;
        moved = std::move(same);
        CHECK(bool(moved));
        CHECK_EQ(moved.flush(), Error::none);
        c.stream = std::move(moved);
        CHECK(bool(c.stream));
    });
    CHECK(c.peer.receive() == "unsent");
}

TEST(a_stream_that_is_overwritten_is_closed) {
    World world;
    Connected first, second;
    int overwritten = first.stream.getfd(), kept = second.stream.getfd();
    (void)world.run([&] {
        (void)first.stream.send("last words");
        first.stream = std::move(second.stream);
        CHECK_EQ(first.stream.getfd(), kept);
        CHECK(!second.stream);
        (void)sleep_for(1_ms);
        CHECK(first.peer.receive() == "last words");
        CHECK(first.peer.ended);
        first.peer.close();
        (void)sleep_for(1_ms);
        CHECK(fcntl(overwritten, F_GETFD) < 0);
        first.stream = Stream{};
        CHECK(!first.stream);
        second.peer.close();
    });
}

TEST(a_stream_that_moves_while_it_is_waited_on_goes_on) {
    World world;
    Connected c;
    std::optional<Stream> stream{std::move(c.stream)};
    std::string line;
    (void)world.run([&] {
        REQUIRE(addthread([&] { line = *stream->receive("*l"); }));
        (void)sleep_for(1_ms);
        Stream moved = std::move(*stream);
        c.peer.send("to the same socket\n");
        (void)sleep_for(1_ms);
        CHECK(line == "to the same socket");
        (void)moved.close();
        c.peer.close();
    });
}

// Wrapping ----------------------------------------------------------------------------------------

TEST(a_wrapped_descriptor_becomes_the_streams) {
    World world;
    auto [mine, theirs] = test::connected_descriptors(Kind::unix_pair);
    fcntl(mine, F_SETFD, 0);
    Peer peer{theirs};
    {
        Stream stream = wrap(mine);
        CHECK_EQ(stream.getfd(), mine);
        CHECK(fcntl(mine, F_GETFL) & O_NONBLOCK);
        CHECK(fcntl(mine, F_GETFD) & FD_CLOEXEC);
        peer.close();
    }
    CHECK_EQ(loop(), Error::none);
    CHECK(fcntl(mine, F_GETFD) < 0);
}

TEST(the_ends_of_a_pipe_are_streams_of_one_direction) {
    World world;
    int ends[2];
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    std::string text = test::pattern(1 << 20);
    bool same = false;
    (void)world.run([&] {
        Stream reader = wrap(ends[0]), writer = wrap(ends[1]);
        REQUIRE(addthread([&, writer = std::move(writer)]() mutable {
            CHECK_EQ(*writer.send(text), text.size());
            CHECK_EQ(writer.flush(), Error::none);
        }));
        std::string got(text.size(), 0);
        CHECK_EQ(reader.receive(std::span<char>(got)).error, Error::none);
        same = got == text;
        CHECK_EQ(reader.receive(1).error, Error::closed);
        CHECK(reader.getpeername().error);
        CHECK(reader.setoption(Option::keepalive, 1));
        (void)reader.send("x");
        CHECK(reader.flush());
    });
    CHECK(same);
}

TEST(a_pipe_without_a_reader_raises_no_signal) {
    World world;
    signal(SIGPIPE, SIG_DFL);
    int ends[2];
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    close(ends[0]);
    (void)world.run([&] {
        Stream writer = wrap(ends[1]);
        (void)writer.send("x");
        Error error = writer.flush();
        CHECK_EQ(error, Error::closed);
        CHECK_EQ(error.code(), EPIPE);
    });
}

TEST(a_regular_file_is_unsupported) {
    World world;
    char path[] = "/tmp/copse-stream-XXXXXX";
    int fd = mkstemp(path);
    REQUIRE(fd >= 0);
    unlink(path);
    (void)world.run([&] {
        Stream stream = wrap(fd);
        check_every_call(stream, Error::unsupported, __LINE__);
        check_every_call(stream, Error::unsupported, __LINE__);
        CHECK_EQ(stream.close(), Error::none);
        CHECK(fcntl(fd, F_GETFD) < 0);
    });
}

TEST(what_is_no_descriptor_says_so) {
    World world;
    (void)world.run([&] {
        for (int number : {-1, 987654}) {
            Stream stream = wrap(number);
            check_every_call(stream, Error::from_errno(EBADF), __LINE__);
            CHECK_EQ(stream.getfd(), -1);
            CHECK_EQ(stream.close(), Error::none);
        }
    });
}

TEST(a_listening_descriptor_is_no_stream) {
    World world;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    REQUIRE(listen(fd, 1) == 0);
    (void)world.run([&] {
        Stream stream = wrap(fd);
        check_every_call(stream, Error::invalid, __LINE__);
        CHECK_EQ(stream.close(), Error::none);
        CHECK(fcntl(fd, F_GETFD) < 0);
    });
    CHECK(world.elapsed() == 0_s);
}

TEST(a_socket_without_a_peer_is_closed_like_any_other) {
    World world;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    (void)world.run([&] {
        Stream stream = wrap(fd);
        CHECK(stream.receive(1).error);
        (void)stream.send("x");
        CHECK(stream.flush());
    });
    CHECK(fcntl(fd, F_GETFD) < 0);
}

TEST(without_memory_nothing_is_wrapped) {
    World world;
    auto [mine, theirs] = test::connected_descriptors(Kind::unix_pair);
    Peer peer{theirs};
    world.fault = [](Call call, int) { return call == Call::allocate ? ENOMEM : 0; };
    Stream stream = wrap(mine);
    world.fault = nullptr;
    CHECK(!stream);
    // It was to be taken over whatever happens.
    CHECK(fcntl(mine, F_GETFD) < 0);
}

TEST(a_pair_is_connected_to_itself) {
    World world;
    (void)world.run([&] {
        auto [a, b] = std::move(*pair());
        (void)a.send("to b\n");
        (void)b.send("to a\n");
        CHECK(a.receive("*l").value == "to a");
        CHECK(b.receive("*l").value == "to b");
        (void)a.close();
        CHECK_EQ(b.receive("*l").error, Error::closed);
        for (Call what : {Call::open_pair, Call::poller_add}) {
            world.fault = [&](Call call, int) { return call == what ? EMFILE : 0; };
            Result<std::pair<Stream, Stream>> none = pair();
            CHECK_EQ(none.error.code(), EMFILE);
            CHECK(!none->first && !none->second);
        }
        int left = 1;
        world.fault = [&](Call call, int) {
            return call == Call::poller_add && left-- == 0 ? EMFILE : 0;
        };
        CHECK_EQ(pair().error.code(), EMFILE);
        world.fault = nullptr;
    });
}

TEST(the_first_three_descriptors_are_like_any_other) {
    // Nothing can be said in such a process but by how it ends.
    test::Ended ended = test::in_child([] {
        for (int fd = 0; fd < 3; ++fd) close(fd);
        int served = 0;
        bool low = false;
        Error error = loop([&] {
            auto [a, b] = std::move(*pair());
            low = a.getfd() < 3 || b.getfd() < 3;
            Result<Listener> listener = bind("127.0.0.1", 0);
            low = low || listener->getfd() < 3;
            Result<Server> server = addserver(std::move(*listener), [&](Stream& stream) {
                low = low || stream.getfd() < 3;
                served += stream.receive("*l").value == "hello";
                (void)stream.send("goodbye\n");
            });
            Result<Stream> client = connect(*server->address());
            (void)client->send("hello\n");
            served += client->receive("*a").value == "goodbye\n";
            (void)a.send("x");
            served += b.receive(1).value == "x";
            (void)server->remove();
        });
        if (error || served != 3 || !low) _exit(3);
        if (destroy_loop()) _exit(4);
        for (int fd = 0; fd < 3; ++fd)
            if (fcntl(fd, F_GETFD) >= 0) _exit(5);
        _exit(0);
    });
    CHECK_EQ(ended.status, 0);
}

// Questions and options ---------------------------------------------------------------------------

TEST(the_options_of_luasocket_are_set_and_read) {
    World world;
    Connected c{Kind::tcp};
    Stream& stream = c.stream;
    struct {
        Option option;
        int level, name;  // the kernel's
        int value;
    } cases[] = {
        {Option::keepalive, SOL_SOCKET, SO_KEEPALIVE, 1},
        {Option::keepalive, SOL_SOCKET, SO_KEEPALIVE, 0},
        {Option::reuseaddr, SOL_SOCKET, SO_REUSEADDR, 1},
        {Option::reuseaddr, SOL_SOCKET, SO_REUSEADDR, 0},
        {Option::tcp_nodelay, IPPROTO_TCP, TCP_NODELAY, 0},
        {Option::tcp_nodelay, IPPROTO_TCP, TCP_NODELAY, 1},
#ifdef __linux__
        {Option::reuseport, SOL_SOCKET, SO_REUSEPORT, 1},
        {Option::tcp_keepidle, IPPROTO_TCP, TCP_KEEPIDLE, 77},
        {Option::tcp_keepcnt, IPPROTO_TCP, TCP_KEEPCNT, 5},
        {Option::tcp_keepintvl, IPPROTO_TCP, TCP_KEEPINTVL, 33},
        {Option::tcp_user_timeout, IPPROTO_TCP, TCP_USER_TIMEOUT, 12345},
#endif
    };
    for (const auto& each : cases) {
        CHECK_EQ(stream.setoption(each.option, each.value), Error::none);
        Result<int> got = stream.getoption(each.option);
        CHECK_EQ(got.error, Error::none);
        CHECK_EQ(*got, each.value);
        int really = -1;
        socklen_t size = sizeof really;
        getsockopt(stream.getfd(), each.level, each.name, &really, &size);
        CHECK_EQ(really, each.value);
    }
    for (int seconds : {0, 7, -1}) {
        CHECK_EQ(stream.setoption(Option::linger, seconds), Error::none);
        CHECK_EQ(*stream.getoption(Option::linger), seconds);
        linger really{5, 5};
        socklen_t size = sizeof really;
        getsockopt(stream.getfd(), SOL_SOCKET, SO_LINGER, &really, &size);
        CHECK_EQ(really.l_onoff, seconds >= 0);
        if (seconds >= 0) CHECK_EQ(really.l_linger, seconds);
    }
    // The kernel gives no less than was asked for.
    for (Option size : {Option::recv_buffer_size, Option::send_buffer_size}) {
        CHECK_EQ(stream.setoption(size, 20000), Error::none);
        CHECK(*stream.getoption(size) >= 20000);
    }
    CHECK_EQ(stream.setoption(Option::keepalive, 1), Error::none);
    CHECK_EQ(*stream.getoption(Option::error), 0);
    CHECK_EQ(stream.setoption(Option::error, 0).code(), ENOPROTOOPT);
    CHECK_EQ(stream.setoption(Option(200), 1).code(), ENOPROTOOPT);
    CHECK_EQ(stream.getoption(Option(200)).error.code(), ENOPROTOOPT);
    CHECK(stream.setoption(Option::tcp_keepcnt, -5));
    CHECK(stream.setoption(Option::ipv6_v6only, 1));
}

TEST(an_option_that_is_a_name_is_set_as_one) {
    World world;
    Connected c{Kind::tcp};
    CHECK_EQ(c.stream.setoption(Option::bindtodevice, 1).code(), ENOPROTOOPT);
    CHECK_EQ(c.stream.setoption(Option::keepalive, "lo").code(), ENOPROTOOPT);
    std::string set;
    world.set_option = [](const System& s, int, int, int name, const void* value, socklen_t size) {
#ifdef SO_BINDTODEVICE
        CHECK_EQ(name, SO_BINDTODEVICE);
#endif
        CHECK_EQ(&s, &system_to_use());
        CHECK(std::string(static_cast<const char*>(value), size) == "lo");
        return -ENODEV;
    };
#ifdef SO_BINDTODEVICE
    CHECK_EQ(c.stream.setoption(Option::bindtodevice, "lo").code(), ENODEV);
#else
    CHECK_EQ(c.stream.setoption(Option::bindtodevice, "lo").code(), ENOPROTOOPT);
#endif
}

TEST(a_listener_has_options_too) {
    World world;
    Result<Listener> listener = bind("127.0.0.1", 0);
    REQUIRE(listener);
    CHECK_EQ(*listener->getoption(Option::reuseaddr), 1);
    CHECK_EQ(*listener->getoption(Option::tcp_nodelay), 1);
#ifdef __linux__
    CHECK_EQ(listener->setoption(Option::tcp_defer_accept, 5), Error::none);
    CHECK(*listener->getoption(Option::tcp_defer_accept) >= 5);
    CHECK_EQ(listener->setoption(Option::tcp_fastopen, 16), Error::none);
    CHECK_EQ(*listener->getoption(Option::tcp_fastopen), 16);
#endif
    Result<Listener> six = bind("::1", 0);
    if (six) CHECK_EQ(six->getoption(Option::ipv6_v6only).error, Error::none);
}

TEST(a_pending_error_is_read_once) {
    World world;
    Connected c{Kind::tcp};
    (void)world.run([&] {
        c.peer.reset();
        CHECK_EQ(*c.stream.getoption(Option::error), ECONNRESET);
        CHECK_EQ(*c.stream.getoption(Option::error), 0);
    });
}

TEST(bytes_are_counted) {
    World world;
    Connected c;
    (void)world.run([&] {
        Time before = now();
        c.peer.send("0123456789");
        (void)c.stream.receive(3);
        (void)c.stream.send("abcde");
        CHECK_EQ(c.stream.getstats().received, 10u);
        CHECK_EQ(c.stream.getstats().sent, 0u);
        (void)c.stream.flush();
        CHECK_EQ(c.stream.getstats().sent, 5u);
        (void)sleep_for(10_s);
        CHECK(c.stream.getstats().age >= now() - before);
        CHECK(c.stream.dirty());
        (void)c.stream.receive(7);
        CHECK(!c.stream.dirty());
    });
}

TEST(a_name_is_copied_and_cut) {
    World world;
    Connected c;
    CHECK(std::string(c.stream.name()).empty());
    {
        std::string name = "web:client_1";
        c.stream.setname(name.c_str());
    }
    CHECK(std::string(c.stream.name()) == "web:client_1");
    setsocketname(c.stream, "0123456789012345678901234567890123456789");
    CHECK(std::string(getsocketname(c.stream)) == "0123456789012345678901234567890");
    c.stream.setname(nullptr);
    CHECK(std::string(c.stream.name()).empty());
    c.stream.setname("x");
    c.stream.setname("");
    CHECK(std::string(c.stream.name()).empty());
}

TEST(a_name_that_there_is_no_memory_for_leaves_the_one_there_was) {
    World world;
    Connected c;
    world.fault = [](Call call, int) { return call == Call::allocate ? ENOMEM : 0; };
    CHECK_EQ(c.stream.setname("nobody"), Error::no_memory);
    CHECK(std::string(c.stream.name()).empty());
    CHECK_EQ(c.stream.setname(""), Error::none);
    world.fault = nullptr;
    CHECK_EQ(c.stream.setname("somebody"), Error::none);
    world.fault = [](Call call, int) { return call == Call::allocate ? ENOMEM : 0; };
    CHECK_EQ(c.stream.setname("somebody else"), Error::none);
    CHECK(std::string(c.stream.name()) == "somebody else");
}

TEST(both_ends_have_their_addresses) {
    World world;
    Connected tcp{Kind::tcp}, unnamed;
    CHECK(!(*tcp.stream.getpeername() == *tcp.stream.getsockname()));
    CHECK(std::string(tcp.stream.getpeername()->host().c_str()) == "127.0.0.1");
    CHECK_EQ(unnamed.stream.getpeername().error, Error::none);
    CHECK(std::string(unnamed.stream.getpeername()->format().c_str()).empty());
    (void)world.run([&] {
        tcp.peer.reset();
        (void)tcp.stream.receive(1);
        Result<Address> gone = tcp.stream.getpeername();
        CHECK_EQ(gone.error.code(), ENOTCONN);
        CHECK_EQ(gone->size(), 0u);
    });
}

// Cost --------------------------------------------------------------------------------------------

TEST(a_round_trip_allocates_nothing_and_is_two_system_calls) {
    World world;
    std::vector<Connected> connections;
    for (int i = 0; i < 10; ++i) connections.emplace_back(Kind::tcp);
    (void)world.run([&] {
        for (Connected& c : connections) {
            REQUIRE(addthread([&] {
                while (Result<std::string_view> line = c.stream.receive("*l")) {
                    (void)c.stream.send(*line);
                    (void)c.stream.send("\n");
                }
            }));
        }
        auto round = [&](const std::string& line) {
            for (Connected& c : connections) c.peer.send(line);
            (void)sleep_for(1_ms);
            for (Connected& c : connections) CHECK(c.peer.receive() == line);
        };
        std::string small = "a line\n", large = test::pattern(20000) + "\n";
        for (const std::string* line : {&small, &large}) {
            for (int i = 0; i < 10; ++i) round(*line);
            uint64_t allocations = status().allocations;
            uint64_t asked = world.of_call(Call::allocate) + world.of_call(Call::map);
            uint64_t received = world.of_call(Call::receive), sent = world.of_call(Call::send);
            uint64_t added = world.of_call(Call::poller_add);
            uint64_t waits = world.of_call(Call::poller_wait);
            constexpr uint64_t rounds = 100;
            for (uint64_t i = 0; i < rounds; ++i) round(*line);
            uint64_t messages = rounds * connections.size();
            CHECK_EQ(status().allocations, allocations);
            CHECK_EQ(world.of_call(Call::allocate) + world.of_call(Call::map), asked);
            CHECK_EQ(world.of_call(Call::receive) - received, messages);
            CHECK_EQ(world.of_call(Call::send) - sent, messages);
            CHECK_EQ(world.of_call(Call::poller_add), added);
            // One wait brings all ten, and a few look for more.
            CHECK(world.of_call(Call::poller_wait) - waits <= 5 * rounds);
        }
        for (Connected& c : connections) c.peer.close();
    });
}

TEST(a_descriptor_is_registered_once_for_its_life) {
    World world;
    Connected c;
    CHECK_EQ(world.of_call(Call::poller_add), 1u);
    (void)world.run([&] {
        for (int i = 0; i < 100; ++i) {
            c.stream.settimeout(1_ms);
            CHECK_EQ(c.stream.receive("*l").error, Error::timeout);
            (void)c.stream.send("x");
            (void)c.stream.flush();
        }
        world.dam();
        CHECK_EQ(c.stream.send(std::string(1 << 20, 'x')).error, Error::timeout);
        (void)c.stream.reset();
    });
    CHECK_EQ(world.of_call(Call::poller_add), 1u);
    CHECK_EQ(world.of_call(Call::poller_remove), 1u);
}

TEST(a_woken_reader_asks_the_kernel_once) {
    World world;
    Connected c;
    (void)world.run([&] {
        REQUIRE(addthread([&] {
            for (int i = 0; i < 100; ++i) CHECK(c.stream.receive("*l").value == "line");
        }));
        for (int i = 0; i < 100; ++i) {
            (void)sleep_for(1_ms);
            c.peer.send("line\n");
        }
    });
    CHECK_EQ(world.of_call(Call::receive), 100u);
}

// The process -------------------------------------------------------------------------------------

TEST(a_peer_that_vanishes_raises_no_signal) {
    // With SIGPIPE as it comes: the process lives or dies of it.
    World world;
    signal(SIGPIPE, SIG_DFL);
    for (size_t after = 0; after < 100; ++after) {
        Connected c{after % 2 ? Kind::tcp : Kind::unix_pair};
        (void)world.run([&] {
            (void)c.stream.send(std::string(after, 'x'));
            (void)c.stream.flush();
            if (after % 3) c.peer.reset();
            else c.peer.close();
            for (int i = 0; i < 3; ++i) {
                (void)c.stream.send("y");
                (void)c.stream.flush();
            }
            (void)c.stream.send(std::string(100000, 'z'));
        });
    }
}

TEST(a_call_that_a_signal_interrupts_is_made_again) {
    if (!can_interrupt) test::skip("the system calls cannot be made by number here");
    World world;
    std::string text = test::pattern(300000);
    (void)world.run([&] {
        signals_come = true;
        Result<Listener> listener = bind("127.0.0.1", 0);
        REQUIRE(addthread([&] {
            Result<Stream> stream = listener->accept();
            CHECK_EQ(stream.error, Error::none);
            CHECK_EQ(*stream->send(text), text.size());
        }));
        Result<Stream> client = connect(*listener->address());
        std::string got(text.size(), 0);
        CHECK_EQ(client->receive(std::span<char>(got)).error, Error::none);
        CHECK(got == text);
        CHECK_EQ(client->receive(1).error, Error::closed);
        signals_come = false;
    });
}

TEST(signals_from_everywhere_disturb_no_exchange) {
    World world{World::real_time};
    struct sigaction action{};
    action.sa_handler = [](int) {};
    sigaction(SIGALRM, &action, nullptr);
    itimerval often{{0, 500}, {0, 500}}, never_again{};
    setitimer(ITIMER_REAL, &often, nullptr);
    int rounds = 0;
    (void)world.run([&] {
        Result<Listener> listener = bind("127.0.0.1", 0);
        Result<Server> server = addserver(std::move(*listener), [](Stream& stream) {
            while (Result<std::string_view> line = stream.receive("*l")) {
                (void)stream.send(*line);
                (void)stream.send("\n");
                if (stream.flush()) return;
            }
        });
        std::string line = test::pattern(50000);
        for (int i = 0; i < 20; ++i) {
            Result<Stream> client = connect(*server->address());
            CHECK_EQ(client.error, Error::none);
            for (int j = 0; j < 20; ++j) {
                (void)client->send(line);
                (void)client->send("\n");
                rounds += client->receive("*l").value == line;
            }
        }
        (void)server->remove();
    });
    setitimer(ITIMER_REAL, &never_again, nullptr);
    CHECK_EQ(rounds, 400);
}

TEST(another_os_thread_may_not_use_it) {
    if (test::thread_sanitizer) test::skip("a data race is what this is about");
    struct Use {
        const char* what;
        void (*use)(Stream&, Listener&);
    };
    static const Use uses[] = {
        {"a stream used", [](Stream& s, Listener&) { (void)s.receive("*l"); }},
        {"a stream used", [](Stream& s, Listener&) { (void)s.send("x"); }},
        {"a stream used", [](Stream& s, Listener&) { (void)s.flush(); }},
        {"a stream used", [](Stream& s, Listener&) { (void)s.close(); }},
        {"a stream used", [](Stream& s, Listener&) { Stream stolen = std::move(s); }},
        {"a listener used", [](Stream&, Listener& l) { (void)l.accept(); }},
        {"a listener used", [](Stream&, Listener& l) { (void)l.close(); }},
        {"a listener used", [](Stream&, Listener& l) { Listener stolen = std::move(l); }},
    };
    for (const Use& each : uses) {
        test::Ended ended = test::in_child([&each] {
            static const Use& use = each;
            static Connected c;
            static Result<Listener> listener = bind("127.0.0.1", 0);
            pthread_t thread;
            pthread_create(&thread, nullptr, [](void*) -> void* {
                use.use(c.stream, *listener);
                return nullptr;
            }, nullptr);
            pthread_join(thread, nullptr);
            _exit(0);
        });
        CHECK_EQ(ended.signal(), SIGABRT);
        CHECK(ended.mentions(each.what));
        CHECK(ended.mentions("on the OS thread of its loop"));
    }
}

TEST(the_child_of_a_fork_disturbs_no_connection_of_its_parent) {
    World world;
    Connected c{Kind::tcp};
    Result<Listener> listener = bind("127.0.0.1", 0);
    std::string path = "unix:/tmp/copse-fork-" + std::to_string(getpid());
    Result<Listener> at_path = bind(*Address::parse(path));
    REQUIRE(listener && at_path);
    (void)world.run([&] {
        c.peer.send("for the parent\n");
        (void)c.stream.send("by the parent");
        test::Ended ended = test::in_child([&] {
            check_every_call(c.stream, Error::forked, __LINE__);
            CHECK_EQ(listener->accept().error, Error::forked);
            CHECK_EQ(bind("127.0.0.1", 0).error, Error::forked);
            CHECK_EQ(connect("127.0.0.1", 1).error, Error::forked);
            CHECK_EQ(pair().error, Error::forked);
            CHECK_EQ(addserver(std::move(*listener), [](Stream&) {}).error, Error::forked);
            { Stream gone = std::move(c.stream); }
            { Listener gone = std::move(*at_path); }
        });
        if (!ended.well()) fprintf(stderr, "%s", ended.said.c_str());
        CHECK_EQ(ended.status, 0);
        CHECK(c.stream.receive("*l").value == "for the parent");
        CHECK_EQ(c.stream.flush(), Error::none);
        CHECK(c.peer.receive() == "by the parent");
        (void)c.stream.send("and goodbye");
        (void)c.stream.close();
        CHECK(c.peer.receive_to_end() == "and goodbye");
        CHECK_EQ(c.peer.error, 0);
        Peer client = test::dial(*listener->address());
        CHECK_EQ(listener->accept().error, Error::none);
        CHECK(access(path.c_str() + 5, F_OK) == 0);
    });
}

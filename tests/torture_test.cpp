// Torture: every call of the table fails in turn, and peers vanish at every byte. Nothing crashes,
// hangs or leaks; what was not delivered is reported; and afterwards all is well.
#include "faulty_system.h"
#include "peer.h"
#include "test.h"

#include <algorithm>
#include <memory>
#include <vector>

using namespace copse;
using namespace copse::literals;
using test::Call;
using test::Kind;
using test::Peer;
using test::World;

// A call that fails -------------------------------------------------------------------------------

namespace {

std::vector<int> plausible(Call call) {
    switch (call) {
    case Call::allocate: case Call::map: return {ENOMEM};
    case Call::poller_open: return {EMFILE, ENFILE, ENOMEM};
    case Call::poller_add: return {ENOMEM, ENOSPC};
    case Call::poller_wait: return {EINTR, ENOMEM, EAGAIN};
    case Call::open_socket: case Call::open_pair: return {EMFILE, ENFILE, ENOBUFS, ENOMEM, EACCES};
    case Call::close: return {EIO, EINTR, ECONNRESET};
    case Call::bind: return {EADDRINUSE, EACCES, EADDRNOTAVAIL, ENOMEM};
    case Call::listen: return {EADDRINUSE, ENOBUFS};
    case Call::accept:
        return {EAGAIN, ECONNABORTED, EMFILE, ENFILE, ENOBUFS,
                ENOMEM, EPROTO,       EPERM,  EINVAL, EBADF};
    case Call::connect:
        return {ECONNREFUSED, ETIMEDOUT, ENETUNREACH, EADDRNOTAVAIL, EACCES, EINPROGRESS};
    case Call::shutdown: return {ENOTCONN, ENOBUFS};
    case Call::get_peer_name: case Call::get_socket_name: return {ENOTCONN, ENOBUFS, EINVAL};
    case Call::get_option: case Call::set_option: return {ENOBUFS, ENOPROTOOPT, EINVAL, ENOMEM};
    case Call::receive: return {EAGAIN, ECONNRESET, ETIMEDOUT, ENOMEM, EHOSTUNREACH, EIO};
    case Call::send: return {EAGAIN, EPIPE, ECONNRESET, ENOBUFS, ENOMEM, EHOSTUNREACH};
    case Call::unlink: return {ENOENT, EACCES};
    case Call::adopt: case Call::poller_remove: break;  // fail only for what is no descriptor
    }
    return {};
}

struct Happened {
    bool echoed = false;     // the client got back what it had sent
    bool reported = false;   // somebody was told that something is wrong
};

// A server, a client, a line there and back, and the end of both. Nobody waits for ever.
void talk(const Address& where, Happened& happened) {
    constexpr size_t size = 100000;  // past the high-water mark, and many reads
    std::string line = test::pattern(size) + "\n";
    // By value to the server, whose last connection may outlive this frame.
    auto note = [&happened](Error error) { happened.reported = happened.reported || error; };
    Result<Listener> listener = bind(where);
    note(listener.error);
    if (!listener) return;
    Result<Address> address = listener->address();
    note(address.error);
    Result<Server> server = addserver(std::move(*listener), [note](Stream& stream) {
        stream.setlimit(2 * size, 0);
        while (Result<std::string_view> got = stream.receive("*l")) {
            note(stream.send(*got).error);
            note(stream.send("\n").error);
            note(stream.flush());
        }
    }, 5_s);
    note(server.error);
    if (server && address) {
        Result<Stream> client = connect(*address, 5_s);
        note(client.error);
        if (client) {
            client->settimeout(5_s);
            client->setlimit(2 * size, 0);
            note(client->send(line).error);
            Result<std::string_view> got = client->receive("*l");
            note(got.error);
            happened.echoed = got && got->size() == size && line.starts_with(*got);
            note(client->close());
        }
    }
    (void)server->remove();
}

Happened talk_once(World& world, const Address& where) {
    Happened happened;
    int reports = world.reports;
    Error error = world.run([&] { talk(where, happened); });
    happened.reported = happened.reported || error || world.reports != reports;
    // What a removed server's acceptor was told is its own business: the connection is told.
    return happened;
}

// Which call is to fail, of those that can.
struct Plan {
    uint64_t at = UINT64_MAX;  // the at-th call
    size_t variant = 0;        // with the variant-th of its errnos
    bool from_then_on = false;
    bool only_memory = false;

    uint64_t seen = 0;
    bool struck = false;
    size_t variants = 0;  // of the call that was struck

    int operator()(Call call) {
        std::vector<int> numbers = plausible(call);
        bool memory = call == Call::allocate || call == Call::map;
        if (numbers.empty() || (only_memory && !memory)) return 0;
        uint64_t number = seen++;
        if (number != at && !(from_then_on && number > at)) return 0;
        struck = true;
        variants = numbers.size();
        return numbers[variant < numbers.size() ? variant : 0];
    }
};

void torture(const char* address, bool only_memory, bool from_then_on) {
    uint64_t calls = 0, cases = 0;
    for (uint64_t at = 0; at == 0 || at < calls; ++at) {
        for (size_t variant = 0, variants = 1; variant < variants; ++variant, ++cases) {
            World world;
            Address where = *Address::parse(address);
            Plan plan{.at = at, .variant = variant, .from_then_on = from_then_on,
                      .only_memory = only_memory};
            if (calls == 0) plan.at = UINT64_MAX;  // the first only counts
            Call struck{};
            int errno_given = 0;
            world.fault = [&](Call call, int fd) {
                int number = plan(call);
                if (number && !errno_given) struck = call, errno_given = number;
                // A level-triggered poller would never stop telling of a socket without a peer.
                if (number == EINPROGRESS && world.poller_rearm) world.mute(fd);
                return number;
            };
            Happened happened = talk_once(world, where);
            world.fault = nullptr;
            if (!happened.echoed && !happened.reported) {
                test::fail(__FILE__, __LINE__, "delivered or reported");
                fprintf(stderr, "    call %llu, %s: %s\n", (unsigned long long)at,
                        test::call_names[int(struck)], strerror(errno_given));
            }
            if (plan.struck) variants = plan.variants;
            // Where the kernel would not say what the path is, or not remove it.
            if (where.family() == Address::Family::unix_path &&
                (struck == Call::get_socket_name || struck == Call::unlink))
                ::unlink(where.host().c_str());
            // Afterwards all is well.
            Happened again = talk_once(world, where);
            if (!again.echoed || again.reported || !World::quiet()) {
                test::fail(__FILE__, __LINE__, "all is well afterwards");
                fprintf(stderr, "    call %llu, %s: %s\n", (unsigned long long)at,
                        test::call_names[int(struck)], strerror(errno_given));
            }
            if (calls == 0) {
                CHECK(happened.echoed && !happened.reported);
                calls = plan.seen;
                at = UINT64_MAX;  // and then from the beginning
                REQUIRE(calls > (only_memory ? 2u : 30u));
            }
        }
    }
    CHECK(cases > calls);
}

}  // namespace

TEST(any_one_call_may_fail_over_tcp) { torture("127.0.0.1:0", false, false); }

TEST(any_one_call_may_fail_over_a_unix_path) {
    std::string path = "unix:/tmp/copse-torture-" + std::to_string(getpid());
    torture(path.c_str(), false, false);
    CHECK(access(path.c_str() + 5, F_OK) != 0);
}

TEST(memory_may_be_missing_once) { torture("127.0.0.1:0", true, false); }
TEST(memory_may_be_missing_from_any_time_on) { torture("127.0.0.1:0", true, true); }

TEST(a_loop_that_cannot_be_made_leaves_nothing) {
    for (uint64_t at = 0; at < 30; ++at) {
        int before = test::open_descriptors();
        test::FaultySystem system;
        use_system(&system);
        Plan plan{.at = at};
        system.fault = [&](Call call, int) { return plan(call); };
        Result<Listener> listener = bind("127.0.0.1", 0);
        Result<std::pair<Stream, Stream>> both = pair();
        Stream wrapped = wrap(dup(0));
        CHECK(listener || listener.error);
        CHECK(both || both.error);
        (void)loop([] {});
        system.fault = nullptr;
        listener.value = Listener{};
        both.value = {};
        wrapped = Stream{};
        CHECK_EQ(destroy_loop(), Error::none);
        use_system(nullptr);
        CHECK_EQ(test::open_descriptors(), before);
        CHECK_EQ(system.pieces_held, 0u);
        CHECK_EQ(system.mapped, 0u);
    }
}

// A peer that vanishes ----------------------------------------------------------------------------

namespace {

// What our side does; the peer does the reverse.
struct Step {
    enum What { receive_line, receive_count, receive_span, send, flush } what;
    size_t size;
};

std::vector<Step> dialogue(uint64_t seed) {
    test::Random random{seed};
    std::vector<Step> steps;
    size_t number = random.between(2, 6);
    for (size_t i = 0; i < number; ++i)
        steps.push_back({Step::What(random.below(5)), random.between(1, 12)});
    return steps;
}

enum class Vanishing { reset, close, half_close };

// Our side; stops at the first error, which is to be the only one.
struct Side {
    std::string received;
    size_t accepted = 0;
    Error error;

    void play(Stream& stream, const std::vector<Step>& steps, const std::string& ours) {
        char room[16];
        size_t at = 0;
        for (const Step& step : steps) {
            switch (step.what) {
            case Step::receive_line: took(stream.receive("*l"), true); break;
            case Step::receive_count: took(stream.receive(step.size), false); break;
            case Step::receive_span:
                took(stream.receive(std::span<char>(room, step.size)), false);
                break;
            case Step::send: {
                Result<size_t> sent = stream.send(std::string_view(ours).substr(at, step.size));
                accepted += *sent;
                at += step.size;
                error = sent.error;
                break;
            }
            case Step::flush: error = stream.flush(); break;
            }
            if (error) break;
        }
        bool told = bool(error);
        Error last = stream.close();
        if (told && error.code() != Error::closed.code()) {
            // The failure of a deferred write may have been found by whoever received.
            CHECK(last == Error::none || last == Error::closed);
        }
        if (!error) error = last;
    }

  private:
    template <class View> void took(const Result<View>& got, bool line) {
        received.append(got->data(), got->size());
        if (line && got) received += '\n';
        error = got.error;
    }
};

// The peer plays its part and vanishes after `left` bytes in all.
void play_peer(Peer& peer, const std::vector<Step>& steps, const std::string& theirs, size_t left,
               Vanishing how, std::string& heard, std::string& said) {
    size_t at = 0;
    for (const Step& step : steps) {
        if (step.what == Step::flush) continue;
        size_t size = std::min(step.size, left);
        if (step.what == Step::send) {
            heard += peer.receive_exactly(size);
        } else {
            size = std::min(step.size + (step.what == Step::receive_line), left);
            std::string_view bytes = std::string_view(theirs).substr(at, size);
            peer.send_whole(bytes);
            said += bytes;
            at += step.size + (step.what == Step::receive_line);
        }
        left -= size;
        if (left == 0) break;
    }
    switch (how) {
    case Vanishing::reset: peer.reset(); return;
    case Vanishing::close: peer.close(); return;
    case Vanishing::half_close: peer.end(); break;
    }
    heard += peer.receive_to_end();
    peer.close();
}

void vanish_everywhere(bool as_client) {
    World world;
    Result<Listener> listener = bind("127.0.0.1", 0);
    REQUIRE(listener);
    Address address = *listener->address();
    int raw_listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    REQUIRE(::listen(raw_listener, 10) == 0);
    Address raw_address;
    socklen_t size = Address::capacity;
    getsockname(raw_listener, raw_address.raw(), &size);
    raw_address.setsize(size);
    raw_address = *Address::parse("127.0.0.1", raw_address.port());
    uint64_t cases = 0;
    for (uint64_t seed = 1; seed <= 25; ++seed) {
        std::vector<Step> steps = dialogue(seed);
        std::string ours = test::pattern(100, unsigned(seed)), theirs;
        size_t wire = 0;
        for (const Step& step : steps) {
            if (step.what == Step::flush) continue;
            wire += step.size + (step.what == Step::receive_line);
            if (step.what == Step::send) continue;
            theirs += test::pattern(step.size, unsigned(wire));
            if (step.what == Step::receive_line) theirs += '\n';
        }
        for (size_t left = 0; left <= wire; ++left) {
            for (Vanishing how : {Vanishing::reset, Vanishing::close, Vanishing::half_close}) {
                ++cases;
                Side side;
                std::string heard, said;
                uint64_t lost = status().lost, sent = 0;
                (void)world.run([&] {
                    Stream stream;
                    Peer peer;
                    if (as_client) {
                        Result<Stream> made = connect(raw_address);
                        REQUIRE(made);
                        stream = std::move(*made);
                        peer = Peer{accept4(raw_listener, nullptr, nullptr, SOCK_CLOEXEC)};
                    } else {
                        peer = test::dial(address);
                        Result<Stream> made = listener->accept();
                        REQUIRE(made);
                        stream = std::move(*made);
                    }
                    Result<Thread> other = addthread([&] {
                        play_peer(peer, steps, theirs, left, how, heard, said);
                    });
                    side.play(stream, steps, ours);
                    (void)other->join();
                    sent = stream.getstats().sent;
                });
                CHECK(said.starts_with(side.received));
                CHECK(ours.starts_with(heard));
                CHECK(side.accepted <= sent + status().lost - lost);
                if (left == wire && how == Vanishing::half_close) {
                    CHECK_EQ(side.error, Error::none);
                    CHECK(side.received == theirs);
                    CHECK_EQ(heard.size(), side.accepted);
                }
                if (!side.error) CHECK(side.received.size() == theirs.size());
            }
        }
    }
    ::close(raw_listener);
    CHECK(cases > 1000);
    // And the next one is served.
    (void)world.run([&] {
        Peer peer = test::dial(address);
        peer.send("hello\n");
        CHECK(listener->accept()->receive("*l").value == "hello");
    });
}

}  // namespace

TEST(a_client_may_vanish_at_any_byte) { vanish_everywhere(false); }
TEST(a_server_may_vanish_at_any_byte) { vanish_everywhere(true); }

// Everything at once ------------------------------------------------------------------------------

namespace {

// One direction of a connection: what was taken of the pattern, and what came out at the other end.
struct Flow {
    std::string text = test::pattern(20000);
    size_t accepted = 0;
    std::string received;
    bool ended = false;  // the reader has seen a clean end
};

void write_at_random(Stream& stream, Flow& way, uint64_t seed) {
    test::Random random{seed};
    while (way.accepted < way.text.size()) {
        stream.settimeouts(never, Duration::nanoseconds(int64_t(random.below(3000000))), never);
        if (random.below(5) == 0) (void)stream.flush();
        if (random.below(20) == 0 && sleep_for(1_ms)) return;
        if (random.below(200) == 0) (void)stream.shutdown(How::send);
        std::string_view rest = std::string_view(way.text).substr(way.accepted);
        Result<size_t> sent;
        size_t size = random.between(1, random.below(4) ? 100 : 3000);
        switch (random.below(3)) {
        case 0: sent = stream.send(rest.substr(0, size)); break;
        case 1: sent = stream.send(rest, 1, ptrdiff_t(size)); break;
        case 2: {
            std::string_view some = rest.substr(0, size);
            std::string_view pieces[] = {some.substr(0, some.size() / 2),
                                         some.substr(some.size() / 2)};
            sent = stream.send(pieces);
            break;
        }
        }
        way.accepted += *sent;
        if (sent.error && sent.error != Error::timeout && sent.error != Error::busy) return;
    }
}

void read_at_random(Stream& stream, Flow& way, uint64_t seed) {
    test::Random random{seed};
    char room[3000];
    for (;;) {
        Duration timeout = Duration::nanoseconds(int64_t(random.below(3000000)));
        stream.settimeouts(never, never, random.below(3) ? never : timeout);
        if (random.below(10) == 0) stream.setlimit(random.between(1, 2000), 0);
        // A prefix comes back in front of what was received; now and then it is the last of it.
        std::string prefix;
        if (random.below(3) == 0) {
            prefix = way.received.substr(way.received.size() - way.received.size() % 50);
            way.received.resize(way.received.size() - prefix.size());
        }
        size_t size = random.between(1, 2500);
        std::string got;
        Error error;
        auto keep = [&](auto&& result) {
            got.assign(result->data(), result->size());
            error = result.error;
        };
        switch (random.below(6)) {
        case 0: keep(stream.receive("*l", prefix)); break;
        case 1: keep(stream.receive(size, prefix)); break;
        case 2: keep(stream.receivepartial(size, prefix)); break;
        case 3: keep(stream.receive("*a", prefix)); break;
        case 4: keep(stream.receive(std::span<char>(room, size))); got = prefix + got; break;
        case 5: keep(stream.receive_some(std::span<char>(room, size))); got = prefix + got; break;
        }
        way.received += got;
        if (error == Error::none || error == Error::timeout || error == Error::oversized) continue;
        way.ended = error.code() == Error::closed.code();
        return;
    }
}

}  // namespace

TEST(whatever_threads_do_to_each_other_no_byte_is_lost_or_repeated) {
    for (uint64_t seed = 1; seed <= 150; ++seed) {
        World world;
        test::Random random{seed};
        world.choose_by(seed);
        bool hindered = random.below(2);
        if (hindered) {
            world.receives = [&](int, size_t n) { return random.below(5) ? random.below(n + 1) : n; };
            world.sends = [&](int, size_t n) { return random.below(5) ? random.below(n + 1) : n; };
        }
        constexpr int number = 3;
        struct Line {
            Stream ends[2];
            Flow ways[2];
            bool rude = false;  // reset, canceled or closed under somebody's feet
        };
        std::vector<Line> lines(number);
        (void)world.run([&] {
            std::vector<Thread> threads;
            std::vector<size_t> of_line;
            for (Line& line : lines) {
                Result<std::pair<Stream, Stream>> both = pair();
                line.ends[0] = std::move(both->first);
                line.ends[1] = std::move(both->second);
                for (int i = 0; i < 2; ++i) {
                    uint64_t mine = random.next();
                    line.ends[i].setlimit(0, random.between(1, 5000));
                    of_line.insert(of_line.end(), 2, size_t(&line - lines.data()));
                    threads.push_back(*addthread([&line, i, mine] {
                        write_at_random(line.ends[i], line.ways[i], mine);
                        (void)line.ends[i].shutdown(How::send);
                    }));
                    threads.push_back(*addthread([&line, i, mine] {
                        read_at_random(line.ends[i], line.ways[1 - i], mine + 1);
                    }));
                }
            }
            for (size_t i = random.below(6); i; --i) {
                (void)sleep_for(Duration::nanoseconds(int64_t(random.below(2000000))));
                size_t which = random.below(threads.size());
                Line& line = lines[of_line[which]];
                line.rude = true;
                switch (random.below(4)) {
                case 0: (void)threads[which].cancel(); break;
                case 1: (void)line.ends[random.below(2)].close(); break;
                case 2: (void)line.ends[random.below(2)].reset(); break;
                case 3: line.ends[random.below(2)] = Stream{}; break;
                }
                Inspection::check();
            }
            // Who is left alone by a canceled one would wait for ever.
            (void)sleep_for(10_s);
            for (Line& line : lines)
                for (Stream& each : line.ends) (void)each.close();
            for (Thread each : threads) (void)each.join();
        });
        for (Line& line : lines) {
            for (Flow& way : line.ways) {
                CHECK(way.text.starts_with(way.received));
                CHECK(way.received.size() <= way.accepted);
                if (line.rude) continue;
                CHECK(way.ended);
                CHECK_EQ(way.received.size(), way.accepted);
            }
        }
        CHECK(World::quiet());
        CHECK_EQ(status().descriptors, 0u);
        CHECK_EQ(world.reports, 0);
        world.receives = world.sends = nullptr;
        if (test::failures) {
            fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
            return;
        }
    }
}

TEST(in_whatever_order_things_happen_the_bytes_are_the_same) {
    for (uint64_t seed = 1; seed <= 100; ++seed) {
        World world;
        world.choose_by(seed);
        std::string text = test::pattern(3000, unsigned(seed));
        int echoed = 0;
        (void)world.run([&] {
            Result<Listener> listener = bind("127.0.0.1", 0);
            Result<Server> server = addserver(std::move(*listener), [](Stream& stream) {
                stream.setlimit(0, 500);
                while (Result<std::string_view> line = stream.receive("*l")) {
                    std::string_view pieces[] = {line->substr(0, 100), line->substr(100), "\n"};
                    (void)stream.send(pieces);
                }
            });
            Address address = *server->address();
            std::vector<Thread> clients;
            for (int i = 0; i < 5; ++i) {
                clients.push_back(*addthread([&, address] {
                    Result<Stream> client = connect(address);
                    client->setlimit(0, 700);
                    for (int j = 0; j < 3; ++j) {
                        (void)client->send(text);
                        (void)client->send("\n");
                        echoed += client->receive("*l").value == text;
                    }
                }));
            }
            for (Thread each : clients) (void)each.join();
            (void)server->remove();
        });
        CHECK_EQ(echoed, 15);
        CHECK_EQ(status().lost, 0u);
    }
}

TEST(many_clients_that_behave_in_every_way_disturb_nobody) {
    World world{World::real_time};
    constexpr int good_clients = 30, bad_clients = 150;
    int good = 0;
    std::string text = test::pattern(20000);
    (void)world.run([&] {
        test::Random random{5};
        Result<Listener> listener = bind("127.0.0.1", 0);
        Result<Server> server = addserver(std::move(*listener), [](Stream& stream) {
            while (Result<std::string_view> line = stream.receive("*l")) {
                std::string_view pieces[] = {*line, "\n"};
                if (!stream.send(pieces)) break;
                if (*line == "throw") throw 1;
                if (*line == "leave") return;
            }
        });
        Address address = *server->address();
        std::vector<Thread> all;
        for (int i = 0; i < good_clients; ++i) {
            all.push_back(*addthread([&, address] {
                Result<Stream> client = connect(address);
                for (int j = 0; client && j < 20; ++j) {
                    std::string_view pieces[] = {text, "\n"};
                    (void)client->send(pieces);
                    if (client->receive("*l").value != text) return;
                }
                good += bool(client);
            }));
        }
        for (int i = 0; i < bad_clients; ++i) {
            uint64_t seed = random.next();
            all.push_back(*addthread([&, address, seed] {
                test::Random mine{seed};
                Peer peer = test::dial(address);
                for (size_t n = mine.below(5); n; --n) {
                    peer.send(std::string_view(text).substr(0, mine.below(text.size())));
                    if (mine.below(2)) peer.send(mine.below(2) ? "\n" : "\nthrow\n");
                    if (mine.below(3) == 0) peer.send("leave\n");
                    if (mine.below(2)) (void)peer.receive(mine.below(30000));
                    (void)yield();
                }
                if (mine.below(2)) peer.end();
                if (mine.below(2)) peer.reset();
            }));
        }
        for (Thread each : all) (void)each.join();
        (void)server->remove();
        cancelall();
    });
    CHECK_EQ(good, good_clients);
    CHECK_EQ(status().buffered, 0u);
}

// Closing: who is woken, what still reaches the peer, and for how long the library cares.
#include "faulty_system.h"
#include "peer.h"
#include "test.h"

#include <memory>
#include <optional>
#include <sys/stat.h>
#include <vector>

using namespace copse;
using namespace copse::literals;
using test::Call;
using test::Connected;
using test::Kind;
using test::Peer;
using test::World;

namespace {

constexpr size_t mark = 65536;

struct Counted {
    int& ended;
    ~Counted() { ++ended; }
};

}  // namespace

// What still reaches the peer ---------------------------------------------------------------------

TEST(a_close_with_unread_input_loses_no_byte_of_the_reply) {
    World world;
    constexpr int rounds = 200, at_once = 50;
    test::Random random{3};
    std::string request = test::pattern(65536), reply = test::pattern(60000, 2);
    int whole = 0;
    for (int round = 0; round < rounds; ++round) {
        // Most of the reply still waits in our kernel when the stream is closed.
        std::vector<Connected> connections;
        for (int i = 0; i < at_once; ++i) connections.emplace_back(Kind::tcp, 0, 8000);
        std::vector<size_t> unread;
        (void)world.run([&] {
            for (Connected& c : connections) {
                unread.push_back(random.between(1, random.below(10) ? 2000 : 65536));
                c.peer.send(std::string_view(request).substr(0, unread.back()));
            }
            for (size_t i = 0; i < connections.size(); ++i) {
                Connected& c = connections[i];
                size_t size = random.between(1, reply.size());
                CHECK_EQ(*c.stream.send(std::string_view(reply).substr(0, size)), size);
                CHECK_EQ(c.stream.close(), Error::none);
                // More may come after the close.
                if (i % 2) c.peer.send(std::string_view(request).substr(0, unread[i]));
                REQUIRE(addthread([&, size] {
                    std::string got = c.peer.receive_to_end();
                    whole += got == std::string_view(reply).substr(0, size) && c.peer.error == 0;
                    c.peer.close();
                }));
            }
        });
        CHECK_EQ(status().lost, 0u);
    }
    CHECK_EQ(whole, rounds * at_once);
}

TEST(a_slow_reader_gets_a_reply_larger_than_every_buffer) {
    World world;
    Connected c{Kind::tcp, 1};
    std::string reply = test::pattern(500000);
    bool same = false;
    (void)world.run([&] {
        c.peer.send("a request that nobody reads");
        c.stream.setlimit(0, reply.size());
        CHECK_EQ(*c.stream.send(reply), reply.size());
        CHECK_EQ(c.stream.close(), Error::none);
        CHECK(status().buffered > reply.size() / 2);
        REQUIRE(addthread([&] {
            std::string got;
            while (!c.peer.ended) {
                got += c.peer.receive(1000);
                (void)yield();
                if (!c.peer.ended) (void)wait(c.peer.fd(), Events::readable);
            }
            same = got == reply;
            CHECK_EQ(c.peer.error, 0);
        }));
    });
    CHECK(same);
    CHECK_EQ(status().lost, 0u);
}

TEST(a_stream_that_goes_out_of_scope_is_flushed) {
    World world;
    Peer peer;
    (void)world.run([&] {
        Connected c;
        peer = std::move(c.peer);
        (void)c.stream.send("last words");
    });
    CHECK(peer.receive() == "last words");
    CHECK(peer.ended);
}

TEST(a_stream_that_dies_with_an_exception_is_flushed) {
    World world;
    Peer peer;
    std::string text = test::pattern(mark);
    (void)world.run([&] {
        Connected a, b;
        peer = std::move(a.peer);
        (void)a.stream.send(text);
        (void)b.stream.send(text);
        throw 1;
    });
    CHECK_EQ(world.reports, 1);
    CHECK(peer.receive() == text);
    CHECK(peer.ended);
}

TEST(outside_any_thread_closing_flushes_too) {
    World world;
    Peer peer;
    world.sends = [](int, size_t) { return size_t{10}; };
    {
        Connected c;
        peer = std::move(c.peer);
        (void)c.stream.send("written when the loop next runs");
    }
    CHECK(!finished());
    CHECK_EQ(loop(), Error::none);
    CHECK(peer.receive() == "written when the loop next runs");
    world.sends = nullptr;
}

TEST(a_peer_that_says_all_before_it_listens_gets_its_reply) {
    // Neither fits the kernel's buffers; the peer reads nothing before it has written all.
    World world;
    std::string request = test::pattern(200000), reply = test::pattern(60000, 2);
    Connected c{Kind::tcp, 1};
    bool whole = false;
    (void)world.run([&] {
        REQUIRE(addthread([&] {
            c.peer.send_whole(request);
            whole = c.peer.receive_to_end() == reply && c.peer.error == 0;
            c.peer.close();
        }));
        CHECK_EQ(c.stream.receive(1).error, Error::none);
        CHECK_EQ(*c.stream.send(reply), reply.size());
        CHECK_EQ(c.stream.close(), Error::none);
    });
    CHECK(whole);
    CHECK_EQ(status().lost, 0u);
}

TEST(an_input_that_ended_is_answered_all_the_same) {
    // The peer has said all it has to say, and waits.
    World world;
    for (Kind kind : {Kind::unix_pair, Kind::tcp}) {
        Connected c{kind};
        (void)world.run([&] {
            REQUIRE(addthread([&] {
                c.peer.send("request");
                c.peer.end();
                CHECK(c.peer.receive_to_end() == "late reply");
                CHECK_EQ(c.peer.error, 0);
            }));
            CHECK(c.stream.receive("*a").value == "request");
            (void)sleep_for(10_s);
            CHECK_EQ(c.stream.send("late reply").error, Error::none);
            CHECK_EQ(c.stream.close(), Error::none);
        });
    }
}

TEST(closing_does_not_park) {
    World world;
    Connected c;
    world.dam();
    (void)world.run([&] {
        (void)c.stream.send(std::string(mark, 'x'));
        uint64_t switches = status().switches;
        CHECK_EQ(c.stream.close(), Error::none);
        CHECK_EQ(status().switches, switches);
        CHECK_EQ(c.stream.getfd(), -1);
        world.open_dam();
    });
    CHECK_EQ(c.peer.receive().size(), mark);
}

TEST(without_memory_for_lingering_a_stream_closes_at_once) {
    World world;
    // Every stack that is mapped is in use.
    Connected c;
    std::vector<Thread> sleepers;
    (void)world.run([&] {
        world.fault = [](Call call, int) {
            return call == Call::map || call == Call::allocate ? ENOMEM : 0;
        };
        for (;;) {
            Result<Thread> sleeper = addthread([] { (void)park(); });
            if (!sleeper) break;
            REQUIRE(sleepers.size() < 100000);
            sleepers.push_back(*sleeper);
        }
        int fd = c.stream.getfd();
        CHECK_EQ(c.stream.close(), Error::none);
        CHECK(fcntl(fd, F_GETFD) < 0);
        world.fault = nullptr;
        for (Thread each : sleepers) (void)each.cancel();
    });
}

// Who is woken ------------------------------------------------------------------------------------

namespace {

enum class Ending { close, reset, destroy, reset_and_destroy };
constexpr Ending endings[] = {Ending::close, Ending::reset, Ending::destroy,
                              Ending::reset_and_destroy};

void end(std::optional<Stream>& stream, Ending how) {
    switch (how) {
    case Ending::close: CHECK_EQ(stream->close(), Error::none); break;
    case Ending::reset: CHECK_EQ(stream->reset(), Error::none); break;
    case Ending::destroy: stream.reset(); break;
    case Ending::reset_and_destroy:
        CHECK_EQ(stream->reset(), Error::none);
        stream.reset();
        break;
    }
}

// Runs `call` on a stream until it parks, ends the stream, and sees the call return `closed`.
template <class CallOn> void check_wakes(World& world, const CallOn& call, int line) {
    for (Ending how : endings) {
        for (bool peer_went : {false, true}) {
            Connected c;
            std::optional<Stream> stream{std::move(c.stream)};
            bool returned = false;
            (void)world.run([&] {
                Result<Thread> parked = addthread([&] {
                    Error error = call(*stream);
                    returned = true;
                    if (error != Error::closed) {
                        test::fail(__FILE__, line, "a parked call is told `closed`");
                        fprintf(stderr, "    it was told %s\n", error.message());
                    }
                });
                (void)sleep_for(1_ms);
                CHECK(!returned);
                if (peer_went) c.peer.close();
                end(stream, how);
                // Who comes next may be given the same memory and the same descriptor.
                std::vector<Connected> others(5);
                (void)yield();
                if (!returned) test::fail(__FILE__, line, "within one turn");
                (void)parked->join();
                (void)c.peer.receive();
                c.peer.close();
                world.open_dam();
                for (Connected& each : others) each.peer.close();
            });
            CHECK(returned);
            CHECK(World::quiet());
            CHECK_EQ(status().descriptors, 0u);
        }
    }
}

}  // namespace

TEST(a_close_wakes_whoever_receives) {
    World world;
    static char bytes[100];
    static std::span<char> room{bytes};
    check_wakes(world, [](Stream& s) { return s.receive("*l").error; }, __LINE__);
    check_wakes(world, [](Stream& s) { return s.receive("*a").error; }, __LINE__);
    check_wakes(world, [](Stream& s) { return s.receive(10).error; }, __LINE__);
    check_wakes(world, [](Stream& s) { return s.receive(0).error; }, __LINE__);
    check_wakes(world, [](Stream& s) { return s.receivepartial("*l").error; }, __LINE__);
    check_wakes(world, [](Stream& s) { return s.receive(room).error; }, __LINE__);
    check_wakes(world, [](Stream& s) { return s.receive_some(room).error; }, __LINE__);
}

TEST(a_close_wakes_whoever_sends_or_flushes) {
    World world;
    check_wakes(world, [&](Stream& s) {
        world.dam();
        return s.send(std::string(2 * mark, 'x')).error;
    }, __LINE__);
    check_wakes(world, [&](Stream& s) {
        world.dam();
        (void)s.send("x");
        return s.flush();
    }, __LINE__);
}

TEST(a_close_wakes_receiver_sender_and_flushers_together) {
    World world;
    for (Ending how : endings) {
        Connected c;
        std::optional<Stream> stream{std::move(c.stream)};
        int closed = 0;
        world.dam();
        (void)world.run([&] {
            (void)stream->send("unsent");
            REQUIRE(addthread([&] { closed += stream->receive("*l").error == Error::closed; }));
            REQUIRE(addthread([&] {
                closed += stream->send(std::string(2 * mark, 'x')).error == Error::closed;
            }));
            for (int i = 0; i < 2; ++i)
                REQUIRE(addthread([&] { closed += stream->flush() == Error::closed; }));
            (void)sleep_for(1_ms);
            CHECK_EQ(closed, 0);
            end(stream, how);
            (void)yield();
            CHECK_EQ(closed, 4);
            c.peer.close();
            world.open_dam();
        });
    }
}

TEST(a_close_wakes_whoever_accepts) {
    World world;
    for (int how = 0; how < 2; ++how) {
        Result<Listener> bound = bind("127.0.0.1", 0);
        REQUIRE(bound);
        std::optional<Listener> listener{std::move(*bound)};
        bool told = false;
        (void)world.run([&] {
            REQUIRE(addthread([&] { told = listener->accept().error == Error::closed; }));
            (void)sleep_for(1_ms);
            if (how == 0) CHECK_EQ(listener->close(), Error::none);
            else listener.reset();
            (void)yield();
            CHECK(told);
        });
    }
}

TEST(a_close_by_another_thread_keeps_what_had_come) {
    World world;
    Connected c;
    (void)world.run([&] {
        REQUIRE(addthread([&] {
            Result<std::string_view> got = c.stream.receive("*l", "<");
            CHECK_EQ(got.error, Error::closed);
            CHECK(*got == "<part");
            std::string_view nothing = c.stream.receive("*l").value;
            CHECK(nothing.empty());
        }));
        REQUIRE(addthread([&] {
            c.peer.send("part");
            (void)sleep_for(1_ms);
            (void)c.stream.close();
        }));
    });
}

TEST(all_is_not_whole_because_we_closed) {
    World world;
    Connected c;
    (void)world.run([&] {
        REQUIRE(addthread([&] { CHECK_EQ(c.stream.receive("*a").error, Error::closed); }));
        c.peer.send("part");
        (void)sleep_for(1_ms);
        c.peer.end();
        (void)c.stream.close();
    });
}

TEST(a_closed_stream_says_so_and_closes_again) {
    World world;
    Connected c;
    char room[3];
    (void)world.run([&] {
        c.peer.send("unread");
        CHECK_EQ(c.stream.close(), Error::none);
        CHECK_EQ(c.stream.close(), Error::none);
        CHECK_EQ(close(c.stream), Error::none);
        CHECK_EQ(c.stream.receive("*l").error, Error::closed);
        CHECK_EQ(c.stream.receivepartial("*l").error, Error::closed);
        CHECK_EQ(c.stream.receive(std::span<char>(room)).error, Error::closed);
        CHECK_EQ(c.stream.receive_some(std::span<char>(room)).error, Error::closed);
        CHECK_EQ(c.stream.send("x").error, Error::closed);
        CHECK_EQ(c.stream.flush(), Error::closed);
        CHECK_EQ(c.stream.reset(), Error::closed);
        CHECK_EQ(c.stream.shutdown(), Error::closed);
        CHECK_EQ(c.stream.setoption(Option::keepalive, 1), Error::closed);
        CHECK_EQ(c.stream.getoption(Option::keepalive).error, Error::closed);
        CHECK_EQ(c.stream.getpeername().error, Error::closed);
        CHECK_EQ(c.stream.getfd(), -1);
        CHECK(!c.stream);
        CHECK(!c.stream.dirty());
        c.peer.close();
    });
    CHECK_EQ(c.stream.getsockname().error, Error::closed);
}

TEST(a_descriptor_used_again_hears_nothing_of_its_past) {
    World world;
    for (Ending how : {Ending::reset, Ending::close, Ending::destroy}) {
        Connected first, second;
        std::optional<Stream> old{std::move(second.stream)};
        Stream next;
        Peer next_peer;
        int number = old->getfd();
        bool woken = false;
        (void)world.run([&] {
            // All of this has happened to the old one when it is closed.
            REQUIRE(addthread([&] { CHECK_EQ(old->receive("*l").error, Error::closed); }));
            REQUIRE(addthread([&] {
                CHECK(first.stream.receive(1).value == "x");
                end(old, how);
                auto [mine, theirs] = test::connected_descriptors(Kind::unix_pair);
                if (theirs == number) std::swap(mine, theirs);
                if (mine != number) {
                    int same = fcntl(mine, F_DUPFD_CLOEXEC, number);
                    ::close(mine);
                    mine = same;
                }
                CHECK_EQ(mine, number);
                next = wrap(mine);
                next_peer = Peer{theirs};
                REQUIRE(addthread([&] {
                    CHECK(next.receive("*l").value == "its own");
                    woken = true;
                }));
            }));
            (void)sleep_for(1_ms);
            first.peer.send("x");
            second.peer.send("for the old one");
            second.peer.close();
            (void)sleep_for(1_ms);
            // It looked once at most, because nothing was known of it, and not for another's bytes.
            uint64_t looked = world.of_call(Call::receive);
            (void)sleep_for(1_s);
            CHECK_EQ(world.of_call(Call::receive), looked);
            CHECK(!woken);
            next_peer.send("its own\n");
        });
        CHECK(woken);
    }
}

TEST(an_event_of_a_closed_stream_is_nobodys) {
    World world;
    Connected old, next;
    (void)world.run([&] {
        uint64_t token = world.token_of(old.stream.getfd());
        PollEvent stale{token, PollEvent::readable | PollEvent::writable};
        old.peer.close();
        (void)old.stream.reset();
        // The next one has its slot, and the same number even.
        Connected fresh;
        REQUIRE(addthread([&] { CHECK(fresh.stream.receive("*l").value == "its own"); }));
        (void)sleep_for(1_ms);
        uint64_t looked = world.of_call(Call::receive);
        world.inject(stale);
        (void)sleep_for(1_ms);
        CHECK_EQ(world.of_call(Call::receive), looked);
        fresh.peer.send("its own\n");
        (void)sleep_for(1_ms);
        fresh.peer.close();
    });
}

TEST(a_duplicate_that_outlives_a_stream_wakes_nobody) {
    World world;
    Connected c;
    int duplicate = dup(c.stream.getfd());
    (void)world.run([&] {
        (void)c.stream.reset();
        uint64_t before = world.of_call(Call::poller_wait);
        for (int i = 0; i < 1000; ++i) c.peer.send("x");
        (void)sleep_for(1_s);
        CHECK(world.of_call(Call::poller_wait) - before <= 3);
    });
    ::close(duplicate);
}

// How a connection ends ---------------------------------------------------------------------------

TEST(a_reset_is_seen_as_one) {
    World world;
    Connected c{Kind::tcp};
    (void)world.run([&] {
        (void)c.stream.send("dropped");
        CHECK_EQ(c.stream.reset(), Error::none);
        CHECK_EQ(c.stream.getfd(), -1);
    });
    CHECK(c.peer.receive().empty());
    CHECK(c.peer.ended);
    CHECK_EQ(c.peer.error, ECONNRESET);
    CHECK_EQ(status().lost, 7u);
    CHECK_EQ(status().buffered, 0u);
}

namespace {

enum class PeerEnds { fin, rst, fin_then_rst, shutdown_only };
enum class WeAre { reading, writing, both, idle };

void half_close_case(World& world, PeerEnds ending, size_t unread, WeAre we) {
    Connected c{Kind::tcp};
    std::string input = test::pattern(unread), received;
    Error input_error, output_error;
    uint64_t waits_before = 0, waits = 0;
    bool ended = false;
    bool reads = we == WeAre::reading || we == WeAre::both;
    bool writes = we == WeAre::writing || we == WeAre::both;
    c.peer.send(input);
    auto read_to_end = [&] {
        char room[5000];
        while (!input_error) {
            Result<std::span<char>> some = c.stream.receive_some(room);
            received.append(some->data(), some->size());
            input_error = some.error;
        }
    };
    (void)world.run([&] {
        if (reads) REQUIRE(addthread(read_to_end));
        if (writes) {
            REQUIRE(addthread([&] {
                for (int more = 20; more && !output_error; more -= ended) {
                    output_error = c.stream.send(std::string(1000, 'w')).error;
                    if (!output_error) output_error = c.stream.flush();
                    (void)sleep_for(300_us);
                }
            }));
        }
        (void)sleep_for(1_ms);
        waits_before = world.of_call(Call::poller_wait);
        switch (ending) {
        case PeerEnds::fin:
            (void)c.peer.receive();
            c.peer.close();
            break;
        case PeerEnds::rst: c.peer.reset(); break;
        case PeerEnds::fin_then_rst:
            c.peer.end();
            (void)sleep_for(1_ms);
            c.peer.reset();
            break;
        case PeerEnds::shutdown_only: c.peer.end(); break;
        }
        ended = true;
        (void)sleep_for(100_ms);
        waits = world.of_call(Call::poller_wait) - waits_before;
        if (!reads) read_to_end();
    });
    // All that came before the end, and then the end as what it was.
    CHECK(received == input);
    CHECK_EQ(input_error, Error::closed);
    bool reset = ending == PeerEnds::rst;
    if (!writes) CHECK_EQ(input_error.code(), reset ? ECONNRESET : Error::closed.code());
    if (writes) {
        bool peer_reads = ending == PeerEnds::shutdown_only;
        CHECK_EQ(output_error, peer_reads ? Error::none : Error::closed);
    }
    // A handful of wakes, and one for each rest of the writer.
    CHECK(waits <= 40);
}

}  // namespace

// A duplicate, or a child that has not yet executed another program, keeps the socket alive; and
// closing alone would end nothing then.
TEST(a_close_ends_the_stream_although_somebody_else_holds_the_descriptor) {
    World world;
    for (bool peer_ends_first : {false, true}) {
        Connected c{Kind::tcp};
        int kept = dup(c.stream.getfd());
        if (peer_ends_first) c.peer.end();
        (void)world.run([&] {
            if (peer_ends_first) CHECK_EQ(c.stream.receive(1).error, Error::closed);
            CHECK(c.stream.send("the last word"));
            CHECK_EQ(c.stream.close(), Error::none);
            (void)sleep_for(1_ms);
            CHECK(c.peer.receive() == "the last word");
            c.peer.end();
        });
        ::close(kept);
    }
}

TEST(every_way_to_end_gives_all_bytes_first_and_no_storm) {
    World world;
    for (PeerEnds ending :
         {PeerEnds::fin, PeerEnds::rst, PeerEnds::fin_then_rst, PeerEnds::shutdown_only})
        for (size_t unread : {0, 1, 65536})
            for (WeAre we : {WeAre::reading, WeAre::writing, WeAre::both, WeAre::idle})
                half_close_case(world, ending, unread, we);
}

TEST(a_connection_whose_peer_hung_up_wakes_nobody) {
    World world;
    Connected c{Kind::tcp};
    c.peer.send("unread");
    c.peer.close();
    (void)world.run([&] {
        (void)sleep_for(1_s);
        uint64_t before = world.of_call(Call::poller_wait);
        (void)sleep_for(1_s);
        CHECK(world.of_call(Call::poller_wait) - before <= 2);
    });
}

// Lingering is bounded ----------------------------------------------------------------------------

TEST(a_peer_that_never_closes_is_waited_for_two_seconds) {
    World world;
    Connected c;
    (void)world.run([&] {
        (void)c.stream.send("reply");
        (void)c.stream.close();
    });
    CHECK(c.peer.receive() == "reply");
    CHECK(world.elapsed() == 2_s);
}

TEST(a_peer_that_drips_is_waited_for_thirty_seconds) {
    World world;
    Connected c;
    bool over = false;
    Duration lingered;
    (void)world.run([&] {
        REQUIRE(addthread([&] {
            while (!over && c.peer.send("x") == 1) (void)sleep_for(1_s);
            lingered = world.elapsed();
            over = true;
        }));
        (void)c.stream.close();
    });
    CHECK(over);
    CHECK(lingered >= 30_s && lingered <= 31_s);
}

TEST(a_peer_that_never_reads_is_waited_for_thirty_seconds) {
    World world;
    Connected c;
    world.dam();
    (void)world.run([&] {
        (void)c.stream.send(std::string(1000, 'x'));
        (void)c.stream.close();
    });
    CHECK(world.elapsed() == 30_s);
    CHECK_EQ(status().lost, 1000u);
    CHECK_EQ(status().buffered, 0u);
}

TEST(a_peer_that_sends_for_ever_is_drained_for_256_kib) {
    World world;
    Connected c;
    size_t taken = 0;
    (void)world.run([&] {
        (void)c.stream.send("reply");
        (void)c.stream.close();
        REQUIRE(addthread([&] {
            std::string more(1000, 'x');
            for (;;) {
                size_t sent = c.peer.send(more);
                taken += sent;
                REQUIRE(taken < 10 << 20);
                if (sent) continue;
                if (errno != EAGAIN) break;
                (void)wait(c.peer.fd(), Events::writable);
            }
        }));
    });
    CHECK(taken >= 256 << 10);
    CHECK(taken < 2 << 20);
    CHECK(world.elapsed() < 2_s);
}

TEST(a_peer_that_has_sent_256_kib_is_closed_without_waiting) {
    World world;
    Connected c{Kind::tcp};
    (void)world.run([&] {
        test::set_now(c.peer.fd(), SOL_SOCKET, SO_SNDBUF, 4 << 20);
        size_t sent = c.peer.send(std::string(1 << 20, 'x'));
        if (sent < 600000) test::skip("the kernel keeps too little for this");
        (void)sleep_for(1_ms);
        int fd = c.stream.getfd();
        (void)c.stream.close();
        (void)sleep_for(1_ms);
        CHECK(fcntl(fd, F_GETFD) < 0);
    });
}

TEST(cancelall_ends_lingering_at_once) {
    World world;
    Connected waiting, unsent, fresh;
    (void)world.run([&] {
        (void)waiting.stream.close();
        (void)sleep_for(1_ms);
        world.dam();
        (void)unsent.stream.send("x");
        (void)unsent.stream.close();
        (void)sleep_for(1_ms);
        // This one has not begun when all are canceled.
        (void)fresh.stream.send("x");
        (void)fresh.stream.close();
        cancelall();
    });
    CHECK(world.elapsed() <= 10_ms);
    CHECK_EQ(status().lost, 2u);
}

TEST(very_many_closing_streams_are_not_all_waited_for) {
    World world;
    constexpr size_t number = 1100;
    std::vector<Connected> connections(number);
    (void)world.run([&] {
        for (Connected& c : connections) {
            (void)c.stream.send("reply");
            (void)c.stream.close();
        }
        (void)sleep_for(1_ms);
        CHECK(status().waiting <= 1024);
        for (Connected& c : connections) {
            CHECK(c.peer.receive() == "reply");
            c.peer.close();
        }
    });
    CHECK_EQ(status().lost, 0u);
}

TEST(however_many_streams_close_at_once_what_they_sent_is_written) {
    World world;
    constexpr size_t number = 1100;
    std::vector<Connected> connections(number);
    (void)world.run([&] {
        world.dam();
        for (Connected& c : connections) {
            (void)c.stream.send("reply");
            (void)c.stream.close();
        }
        (void)sleep_for(1_ms);
        world.open_dam();
        (void)sleep_for(1_ms);
        for (Connected& c : connections) {
            CHECK(c.peer.receive() == "reply");
            c.peer.close();
        }
    });
    CHECK_EQ(status().lost, 0u);
}

TEST(what_is_no_socket_keeps_its_input_when_closed) {
    World world;
    int ends[2];
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    int ours = dup(ends[0]);
    REQUIRE(write(ends[1], "for somebody else", 17) == 17);
    (void)world.run([&] {
        Stream stream = wrap(ours);
        (void)stream.receive(0);
        (void)sleep_for(1_ms);
        CHECK(stream.dirty());
    });
    // What it had buffered is gone with it; but it reads nothing in order to close.
    REQUIRE(write(ends[1], "for somebody else", 17) == 17);
    ours = dup(ends[0]);
    (void)world.run([&] {
        Stream stream = wrap(ours);
        (void)sleep_for(1_ms);
        CHECK_EQ(stream.close(), Error::none);
    });
    char room[100];
    CHECK_EQ(read(ends[0], room, sizeof room), 17);
    ::close(ends[0]);
    ::close(ends[1]);
}

TEST(what_is_no_socket_is_closed_as_soon_as_it_is_written) {
    World world;
    int ends[2];
    REQUIRE(pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0);
    world.sends = [](int, size_t) { return size_t{100}; };
    (void)world.run([&] {
        Stream stream = wrap(ends[1]);
        (void)stream.send(std::string(1000, 'x'));
        CHECK_EQ(stream.close(), Error::none);
    });
    CHECK(world.elapsed() == 0_s);
    char room[2000];
    CHECK_EQ(read(ends[0], room, sizeof room), 1000);
    CHECK_EQ(read(ends[0], room, sizeof room), 0);
    ::close(ends[0]);
    world.sends = nullptr;
}

// Loops that end ----------------------------------------------------------------------------------

TEST(a_stream_may_outlive_its_loop) {
    World world;
    Connected c;
    Result<Listener> listener = bind("127.0.0.1", 0);
    std::optional<Stream> accepted;
    REQUIRE(listener);
    Peer peer = test::dial(*listener->address());
    (void)world.run([&] {
        Result<Stream> got = listener->accept();
        REQUIRE(got);
        accepted.emplace(std::move(*got));
    });
    (void)c.stream.send("on its way");
    (void)accepted->send("too");
    CHECK_EQ(destroy_loop(), Error::none);
    CHECK(c.peer.receive() == "on its way");
    CHECK(c.peer.ended);
    CHECK(peer.receive() == "too");
    CHECK_EQ(c.stream.getfd(), -1);
    CHECK_EQ(c.stream.send("x").error, Error::closed);
    CHECK_EQ(c.stream.receive("*l").error, Error::closed);
    CHECK_EQ(c.stream.flush(), Error::closed);
    CHECK_EQ(c.stream.close(), Error::none);
    CHECK_EQ(c.stream.getoption(Option::error).error, Error::closed);
    CHECK_EQ(listener->accept().error, Error::closed);
    CHECK_EQ(listener->connections(), 0u);
    CHECK_EQ(listener->close(), Error::none);
    accepted.reset();
    // Another loop on the same OS thread is none of their business.
    (void)world.run([&] { CHECK_EQ(c.stream.receive("*l").error, Error::closed); });
}

TEST(streams_of_an_ended_loop_may_go_on_several_os_threads_at_once) {
    struct Share {
        std::vector<Stream> streams;
        Listener listener;
        static void* drop(void* share) {
            delete static_cast<Share*>(share);
            return nullptr;
        }
    };
    auto *one = new Share, *other = new Share;
    (void)loop([&] {
        Result<Listener> listener = bind("127.0.0.1", 0);
        REQUIRE(listener);
        Address address = *listener->address();
        for (int i = 0; i < 100; ++i) {
            Result<Stream> dialed = connect(address);
            Result<Stream> accepted = listener->accept();
            REQUIRE(dialed && accepted);
            one->streams.push_back(std::move(i % 2 ? *dialed : *accepted));
            other->streams.push_back(std::move(i % 2 ? *accepted : *dialed));
        }
        one->listener = std::move(*listener);
    });
    CHECK_EQ(destroy_loop(), Error::none);
    pthread_t threads[2];
    REQUIRE(pthread_create(&threads[0], nullptr, Share::drop, one) == 0);
    REQUIRE(pthread_create(&threads[1], nullptr, Share::drop, other) == 0);
    for (pthread_t each : threads) pthread_join(each, nullptr);
}

TEST(a_loop_taken_down_ends_every_call_and_leaks_nothing) {
    World world;
    world.dam();
    int ended = 0, canceled = 0;
    static char room[10];
    Result<Listener> listener = bind("127.0.0.1", 0);
    Result<Listener> full = bind("127.0.0.1", 0, {.max_connections = 1});
    REQUIRE(listener && full);
    Peer in_full = test::dial(*full->address());
    std::vector<std::unique_ptr<Connected>> connections;
    auto park_in = [&](auto call) {
        connections.push_back(std::make_unique<Connected>());
        Stream stream = std::move(connections.back()->stream);
        REQUIRE(addthread([&, call, stream = std::move(stream)]() mutable {
            Counted mark{ended};
            Stream mine = std::move(stream);
            canceled += call(mine) == Error::canceled;
        }));
    };
    park_in([](Stream& s) { return s.receive("*l").error; });
    park_in([](Stream& s) { return s.receive("*a").error; });
    park_in([](Stream& s) { return s.receive(std::span<char>(room)).error; });
    park_in([](Stream& s) { return s.receive_some(std::span<char>(room)).error; });
    park_in([](Stream& s) { return s.send(std::string(2 * mark, 'x')).error; });
    park_in([](Stream& s) {
        (void)s.send("x");
        return s.flush();
    });
    park_in([](Stream& s) {  // the thread that lingers is one more
        (void)s.close();
        return sleep_for(1000_s);
    });
    REQUIRE(addthread([&] {
        Counted mark{ended};
        canceled += listener->accept().error == Error::canceled;
    }));
    REQUIRE(addthread([&] {
        Counted mark{ended};
        Result<Stream> first = full->accept();
        CHECK_EQ(first.error, Error::none);
        canceled += full->accept().error == Error::canceled;
    }));
    // One that will not begin before the loop goes.
    for (int i = 0; i < 20; ++i) (void)step(0_s);
    CHECK_EQ(ended, 0);
    park_in([](Stream& s) { return s.receive("*l").error; });
    CHECK_EQ(destroy_loop(), Error::none);
    CHECK_EQ(world.reports, 0);
    CHECK_EQ(ended, 10);
    CHECK_EQ(canceled, 10);
}

TEST(an_os_thread_that_ends_takes_its_streams_along) {
    static test::FaultySystem system;
    int before = test::open_descriptors();
    pthread_t thread;
    auto body = [](void*) -> void* {
        use_system(&system);
        auto* c = new Connected;
        (void)loop([&] {
            REQUIRE(addthread([c] {
                CHECK_EQ(c->stream.receive("*l").error, Error::canceled);
                delete c;
            }));
            cancelall();
        });
        auto [a, b] = std::move(*pair());
        REQUIRE(addthread([a = std::move(a)]() mutable { CHECK(!a.receive("*l")); }));
        (void)step(0_s);
        (void)b.send("unread");
        return nullptr;
    };
    REQUIRE(pthread_create(&thread, nullptr, body, nullptr) == 0);
    pthread_join(thread, nullptr);
    CHECK_EQ(test::open_descriptors(), before);
    CHECK_EQ(system.pieces_held, 0u);
    CHECK_EQ(system.mapped, 0u);
}

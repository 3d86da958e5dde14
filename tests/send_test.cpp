// Send: what is taken, when the kernel gets it, how much is held back, and how failure is told.
#include "faulty_system.h"
#include "peer.h"
#include "test.h"

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

constexpr size_t mark = 65536;  // the high-water mark until it is set

void expect(const Result<size_t>& got, size_t value, Error error, int line) {
    if (got.value == value && got.error == error) return;
    test::fail(__FILE__, line, "what was sent");
    fprintf(stderr, "    got {%zu, %s}, not {%zu, %s}\n", got.value, got.error.message(), value,
            error.message());
}
#define EXPECT(result, value, error) expect(result, value, error, __LINE__)

// A stream whose kernel takes nothing until told to.
struct Dammed : Connected {
    World& world;
    explicit Dammed(World& its) : world{its} { world.dam(); }
    ~Dammed() { (void)stream.reset(); }
    void open() { world.open_dam(); }
};

}  // namespace

// What is taken -----------------------------------------------------------------------------------

TEST(sent_bytes_arrive) {
    World world;
    Connected c;
    (void)world.run([&] {
        EXPECT(c.stream.send("hello"), 5, Error::none);
        EXPECT(c.stream.send(""), 0, Error::none);
        EXPECT(c.stream.send(std::string_view("\0\n", 2)), 2, Error::none);
        EXPECT(send(c.stream, " there"), 6, Error::none);
    });
    CHECK(c.peer.receive() == std::string("hello\0\n there", 13));
}

TEST(a_range_is_counted_as_lua_counts) {
    World world;
    Connected c;
    const char* text = "abcdef";
    struct {
        ptrdiff_t i, j;
        size_t last;
        const char* sent;
    } cases[] = {
        {2, 4, 4, "bcd"},     {-2, -1, 6, "ef"},     {1, -1, 6, "abcdef"}, {1, 6, 6, "abcdef"},
        {0, 3, 3, "abc"},     {-100, 2, 2, "ab"},    {3, 100, 6, "cdef"},  {4, 3, 3, ""},
        {5, 1, 4, ""},        {7, -1, 6, ""},        {10, 20, 9, ""},      {1, 0, 0, ""},
        {1, -7, 0, ""},       {-3, -2, 5, "de"},     {6, 6, 6, "f"},       {1, -6, 1, "a"},
        {PTRDIFF_MIN, PTRDIFF_MAX, 6, "abcdef"},
        {PTRDIFF_MAX, PTRDIFF_MIN, PTRDIFF_MAX - 1, ""},
    };
    for (const auto& each : cases) {
        (void)world.run([&] {
            EXPECT(c.stream.send(text, each.i, each.j), each.last, Error::none);
        });
        CHECK(c.peer.receive() == each.sent);
    }
    (void)world.run([&] {
        EXPECT(c.stream.send(text, -2), 6, Error::none);
        EXPECT(c.stream.send("", 1), 0, Error::none);
        EXPECT(c.stream.send("", -1), 0, Error::none);
        EXPECT(send(c.stream, text, 3), 6, Error::none);
    });
    CHECK(c.peer.receive() == "efcdef");
}

TEST(a_range_that_fails_tells_the_last_byte_before) {
    World world;
    Dammed c{world};
    std::string text = test::pattern(3 * mark);
    c.stream.settimeout(1_ms);
    (void)world.run([&] {
        EXPECT(c.stream.send(text, 11), 10, Error::timeout);
        (void)c.stream.close();
        EXPECT(c.stream.send(text, 11), 10, Error::closed);
        EXPECT(c.stream.send(text, 5, 4), 4, Error::closed);
    });
}

TEST(pieces_are_sent_in_their_order) {
    World world;
    Connected c;
    std::vector<std::string_view> pieces = {"a", "", "bc", "def", ""};
    std::vector<std::string> large;
    std::vector<std::string_view> views;
    std::string all = "abcdef";
    for (unsigned i = 0; i < 50; ++i) large.push_back(test::pattern(i * 997, i));
    for (const std::string& each : large) views.push_back(each), all += each;
    (void)world.run([&] {
        EXPECT(c.stream.send(pieces), 6, Error::none);
        EXPECT(c.stream.send(std::span<const std::string_view>{}), 0, Error::none);
        REQUIRE(addthread([&] { CHECK(c.peer.receive_exactly(all.size()) == all); }));
        EXPECT(c.stream.send(views), all.size() - 6, Error::none);
    });
}

TEST(an_empty_send_parks_nobody) {
    World world;
    Dammed c{world};
    (void)world.run([&] {
        EXPECT(c.stream.send(std::string(mark, 'x')), mark, Error::none);
        EXPECT(c.stream.send(""), 0, Error::none);
        c.stream.setlimit(0, 10);
        EXPECT(c.stream.send(""), 0, Error::none);
        (void)c.stream.reset();
    });
}

// When the kernel gets it -------------------------------------------------------------------------

TEST(what_one_turn_sends_is_one_system_call) {
    World world;
    Connected c;
    std::string all;
    (void)world.run([&] {
        for (int i = 0; i < 1000; ++i) {
            std::string line = std::to_string(i) + "\n";
            EXPECT(c.stream.send(line), line.size(), Error::none);
            all += line;
        }
        CHECK_EQ(world.of_call(Call::send), 0u);
        CHECK_EQ(status().buffered, all.size());
    });
    CHECK_EQ(world.of_call(Call::send), 1u);
    CHECK_EQ(status().buffered, 0u);
    CHECK(c.peer.receive() == all);
}

TEST(what_several_threads_send_in_one_turn_is_one_system_call) {
    World world;
    Connected c;
    for (int i = 0; i < 10; ++i)
        REQUIRE(addthread([&] { EXPECT(c.stream.send("0123456789"), 10, Error::none); }));
    CHECK_EQ(loop(), Error::none);
    CHECK_EQ(world.of_call(Call::send), 1u);
    CHECK_EQ(c.peer.receive().size(), 100u);
}

TEST(a_thread_that_never_parks_again_has_its_bytes_written) {
    World world;
    Connected c;
    (void)world.run([&] {
        EXPECT(c.stream.send("bytes"), 5, Error::none);
        REQUIRE(addthread([&] {
            // Others are ready for ever; the turn ends all the same.
            for (int i = 0; i < 10 && c.peer.receive().empty(); ++i) {
                (void)yield();
                CHECK(i < 5);
            }
        }));
    });
}

TEST(a_step_writes_what_was_sent_before_it) {
    World world;
    Connected c;
    EXPECT(c.stream.send("outside any thread"), 18, Error::none);
    CHECK(!finished());
    CHECK(c.peer.receive().empty());
    CHECK_EQ(step(0_s).error, Error::none);
    CHECK(c.peer.receive() == "outside any thread");
    CHECK(finished());
}

TEST(a_large_send_goes_to_the_kernel_with_what_is_buffered_in_one_call) {
    World world;
    Connected c;
    std::string large = test::pattern(150000);
    std::vector<int> pieces;
    world.sent = [&](int, int number, ssize_t) { pieces.push_back(number); };
    (void)world.run([&] {
        EXPECT(c.stream.send("small before "), 13, Error::none);
        EXPECT(c.stream.send(large), large.size(), Error::none);
        CHECK_EQ(pieces.size(), 1u);
        CHECK_EQ(pieces[0], 2);
        CHECK_EQ(status().buffered, 0u);
    });
    CHECK(c.peer.receive() == "small before " + large);
}

TEST(a_full_kernel_is_not_asked_again_before_it_says_so) {
    World world;
    Dammed c{world};
    (void)world.run([&] {
        for (int i = 0; i < 100; ++i) {
            EXPECT(c.stream.send("0123456789"), 10, Error::none);
            (void)yield();
        }
        CHECK_EQ(world.of_call(Call::send), 1u);
        // A false alarm costs one call.
        for (uint64_t i = 1; i <= 100; ++i) {
            world.owe(c.stream.getfd(), PollEvent::writable);
            (void)sleep_for(1_ms);
            CHECK_EQ(world.of_call(Call::send), 1 + i);
        }
        c.open();
        CHECK_EQ(c.stream.flush(), Error::none);
    });
    CHECK_EQ(c.peer.receive().size(), 1000u);
}

TEST(flush_returns_when_the_kernel_has_every_byte) {
    World world;
    Connected c;
    std::string text = test::pattern(mark);
    world.sends = [](int, size_t) { return size_t{1000}; };
    (void)world.run([&] {
        EXPECT(c.stream.send(text), text.size(), Error::none);
        CHECK_EQ(c.stream.flush(), Error::none);
        CHECK_EQ(status().buffered, 0u);
        CHECK_EQ(c.stream.getstats().sent, text.size());
        CHECK(c.peer.receive() == text);
        uint64_t before = world.of_call(Call::send);
        CHECK_EQ(flush(c.stream), Error::none);
        CHECK_EQ(world.of_call(Call::send), before);
    });
    world.sends = nullptr;
}

TEST(several_threads_flush_at_once) {
    World world;
    Dammed c{world};
    int flushed = 0;
    (void)world.run([&] {
        EXPECT(c.stream.send("bytes"), 5, Error::none);
        for (int i = 0; i < 3; ++i)
            REQUIRE(addthread([&] {
                CHECK_EQ(c.stream.flush(), Error::none);
                ++flushed;
            }));
        (void)sleep_for(1_ms);
        CHECK_EQ(flushed, 0);
        c.open();
    });
    CHECK_EQ(flushed, 3);
}

// The high-water mark -----------------------------------------------------------------------------

TEST(never_more_than_the_mark_is_buffered) {
    World world;
    for (size_t limit : {size_t{1}, size_t{10}, size_t{1000}, mark, size_t{200000}}) {
        Connected c;
        test::Random random{limit};
        std::string text = test::pattern(3 * limit + 5000);
        c.stream.setlimit(0, limit);
        world.sends = [&](int, size_t size) {
            CHECK(status().buffered <= limit);
            return random.below(size + 1);
        };
        (void)world.run([&] {
            REQUIRE(addthread([&] { CHECK(c.peer.receive_exactly(text.size()) == text); }));
            for (size_t at = 0; at < text.size();) {
                size_t size = random.between(1, limit * 2);
                std::string_view piece = std::string_view(text).substr(at, size);
                EXPECT(c.stream.send(piece), piece.size(), Error::none);
                CHECK(status().buffered <= limit);
                at += piece.size();
            }
        });
        world.sends = nullptr;
    }
}

// The kernel takes every byte at once, so nothing ever parks.
TEST(a_sender_past_the_mark_hears_of_its_cancellation_and_of_a_scopes_end) {
    World world;
    for (bool cancels : {true, false}) {
        Connected c;
        c.stream.setlimit(0, 10);
        std::string text = test::pattern(11);
        Error error;
        int sends = 0;
        (void)world.run([&] {
            Timeout scope{cancels ? Duration{never} : Duration{1_ms}};
            for (; !error && sends < 1000; ++sends) {
                error = c.stream.send(text).error;
                (void)c.peer.receive();
                if (sends == 100 && cancels) CHECK_EQ(self().cancel(), Error::none);
                if (sends == 100) world.time += 2000000;
            }
        });
        CHECK_EQ(error, cancels ? Error::canceled : Error::timeout);
        CHECK_EQ(sends, 102);
    }
}

TEST(a_peer_that_never_reads_parks_the_sender_and_nobody_else) {
    World world;
    Connected slow, other;
    std::string text = test::pattern(1000);
    size_t taken = 0;
    (void)world.run([&] {
        Result<Thread> sender = addthread([&] {
            for (;;) {
                Result<size_t> sent = slow.stream.send(text);
                taken += *sent;
                CHECK(status().buffered <= mark);
                if (sent) continue;
                CHECK_EQ(sent.error, Error::canceled);
                break;
            }
        });
        for (int i = 0; i < 100; ++i) {
            EXPECT(other.stream.send("ping"), 4, Error::none);
            CHECK_EQ(other.stream.flush(), Error::none);
            CHECK(other.peer.receive() == "ping");
            (void)sleep_for(1_ms);
        }
        CHECK_EQ(status().waiting, 1u);
        uint64_t asked = world.of_call(Call::send);
        (void)sleep_for(1_s);
        CHECK_EQ(world.of_call(Call::send), asked);
        (void)sender->cancel();
        (void)sender->join();
        CHECK_EQ(slow.stream.getstats().sent + status().buffered, taken);
        REQUIRE(slow.stream.getstats().sent <= taken);
        CHECK(slow.peer.receive().size() <= taken);
        (void)slow.stream.reset();
    });
}

TEST(the_mark_can_be_moved) {
    World world;
    Dammed c{world};
    (void)world.run([&] {
        c.stream.settimeout(1_ms);
        c.stream.setlimit(0, 100);
        EXPECT(c.stream.send(std::string(100, 'a')), 100, Error::none);
        EXPECT(c.stream.send("b"), 0, Error::timeout);
        c.stream.setlimit(1, 0);  // leaves it as it is
        EXPECT(c.stream.send("b"), 0, Error::timeout);
        c.stream.setlimit(0, SIZE_MAX);
        EXPECT(c.stream.send(std::string(1 << 20, 'b')), 1 << 20, Error::none);
        CHECK_EQ(status().buffered, (1u << 20) + 100);
        (void)c.stream.reset();
    });
}

TEST(partial_writes_lose_and_repeat_nothing) {
    World world;
    Connected c;
    test::Random random{7};
    std::string text = test::pattern(10 << 20);
    world.sends = [&](int, size_t size) {
        if (!random.below(4)) return size_t{0};
        size_t most = random.below(3) ? random.between(1, 20000) : random.between(1, 10);
        return most < size ? most : size;
    };
    bool same = false;
    (void)world.run([&] {
        REQUIRE(addthread([&] { same = c.peer.receive_exactly(text.size()) == text; }));
        for (size_t at = 0; at < text.size();) {
            size_t size = random.below(3) ? random.between(1, 3000) : random.between(1, 200000);
            std::string_view rest = std::string_view(text).substr(at, size);
            // Now and then in pieces.
            size_t cut = rest.size() / 3;
            std::string_view pieces[] = {rest.substr(0, cut), rest.substr(cut)};
            EXPECT(c.stream.send(pieces), rest.size(), Error::none);
            at += rest.size();
        }
        CHECK_EQ(c.stream.flush(), Error::none);
        CHECK_EQ(c.stream.getstats().sent, text.size());
    });
    world.sends = nullptr;
    CHECK(same);
}

TEST(ten_mebibytes_pass_through_the_smallest_kernel_buffers) {
    World world{World::real_time};
    Connected c{Kind::tcp, 1};
    std::string text = test::pattern(10 << 20);
    bool same = false;
    (void)world.run([&] {
        REQUIRE(addthread([&] { same = c.peer.receive_exactly(text.size()) == text; }));
        EXPECT(c.stream.send(text), text.size(), Error::none);
        CHECK_EQ(c.stream.flush(), Error::none);
    });
    CHECK(same);
}

TEST(without_memory_bytes_go_straight_to_the_kernel) {
    World world;
    Connected c;
    (void)world.run([&] {
        world.fault = [](Call call, int) { return call == Call::allocate ? ENOMEM : 0; };
        EXPECT(c.stream.send("straight"), 8, Error::none);
        CHECK(c.peer.receive() == "straight");
        // And where the kernel is full, too, the sender waits.
        world.sends = [](int, size_t) { return size_t{1}; };
        EXPECT(c.stream.send("slowly"), 6, Error::none);
        CHECK(c.peer.receive() == "slowly");
        world.sends = nullptr;
        world.fault = nullptr;
    });
}

// Who may send ------------------------------------------------------------------------------------

TEST(a_second_sender_is_busy_while_the_first_is_parked) {
    World world;
    Dammed c{world};
    std::string text = test::pattern(2 * mark);
    (void)world.run([&] {
        REQUIRE(addthread([&] { EXPECT(c.stream.send(text), text.size(), Error::none); }));
        (void)sleep_for(1_ms);
        EXPECT(c.stream.send("x"), 0, Error::busy);
        EXPECT(c.stream.send("xyz", 2), 1, Error::busy);
        std::string_view pieces[] = {"x", "y"};
        EXPECT(c.stream.send(pieces), 0, Error::busy);
        c.open();
        REQUIRE(addthread([&] { CHECK(c.peer.receive_exactly(text.size() + 1) == text + "x"); }));
        (void)sleep_for(1_ms);
        EXPECT(c.stream.send("x"), 1, Error::none);
    });
}

TEST(sending_and_receiving_are_two_directions) {
    World world;
    Connected c;
    std::string text = test::pattern(5 * mark);
    bool received = false;
    (void)world.run([&] {
        REQUIRE(addthread([&] {
            received = c.stream.receive("*l").value == "a line";
        }));
        REQUIRE(addthread([&] { EXPECT(c.stream.send(text), text.size(), Error::none); }));
        (void)sleep_for(1_ms);
        c.peer.send("a line\n");
        (void)sleep_for(1_ms);
        CHECK(received);
        CHECK(c.peer.receive_exactly(text.size()) == text);
    });
}

TEST(outside_a_thread_bytes_are_buffered_up_to_the_mark) {
    World world;
    Dammed c{world};
    EXPECT(c.stream.send(std::string(mark - 1, 'x')), mark - 1, Error::none);
    EXPECT(c.stream.send("y"), 1, Error::none);
    EXPECT(c.stream.send("z"), 0, Error::not_a_thread);
    EXPECT(c.stream.send("abc", 2), 1, Error::not_a_thread);
    CHECK_EQ(c.stream.flush(), Error::not_a_thread);
    CHECK_EQ(status().buffered, mark);
    c.open();
    CHECK_EQ(loop(), Error::none);
    CHECK(c.peer.receive() == std::string(mark - 1, 'x') + "y");
}

TEST(outside_a_thread_the_kernel_may_take_more_than_the_mark) {
    World world;
    Connected c;
    world.sends = [](int, size_t size) { return size < 100000 ? size : size_t{100000}; };
    // 100000 go to the kernel, the rest fits below the mark.
    EXPECT(c.stream.send(test::pattern(150000)), 150000, Error::none);
    CHECK_EQ(status().buffered, 50000u);
    CHECK_EQ(loop(), Error::none);
    CHECK(c.peer.receive() == test::pattern(150000));
    world.sends = nullptr;
}

// Time --------------------------------------------------------------------------------------------

TEST(a_send_that_times_out_tells_how_much_was_taken) {
    World world;
    Connected c;
    std::string text = test::pattern(10 * mark);
    (void)world.run([&] {
        c.stream.settimeouts(never, 10_ms, never);
        size_t room = 3 * mark;
        world.sends = [&](int, size_t size) {
            size_t taken = size < room ? size : room;
            room -= taken;
            if (taken == 0) world.dam();
            return taken;
        };
        EXPECT(c.stream.send("first"), 5, Error::none);
        Time before = now();
        EXPECT(c.stream.send(text), 3 * mark - 5, Error::timeout);
        CHECK(now() - before == 10_ms);
        world.sends = nullptr;
        world.open_dam();
        // What follows goes on where it ended.
        REQUIRE(addthread([&] {
            CHECK(c.peer.receive_exactly(5 + text.size()) == "first" + text);
        }));
        EXPECT(c.stream.send(text, ptrdiff_t(3 * mark - 5 + 1)), text.size(), Error::none);
    });
}

TEST(bytes_that_drip_away_do_not_extend_a_send) {
    World world;
    Connected c;
    std::string text = test::pattern(10 * mark);
    (void)world.run([&] {
        c.stream.settimeout(10_s);
        world.sends = [&](int, size_t) {
            world.time += 900'000'000;
            return size_t{1};
        };
        Time before = now();
        Result<size_t> sent = c.stream.send(text);
        CHECK_EQ(sent.error, Error::timeout);
        CHECK(*sent >= 10 && *sent <= 13);
        CHECK(now() - before < 12_s);
        (void)c.stream.reset();
    });
    world.sends = nullptr;
}

TEST(a_flush_that_times_out_loses_nothing) {
    World world;
    Dammed c{world};
    (void)world.run([&] {
        c.stream.settimeout(10_ms);
        EXPECT(c.stream.send("bytes"), 5, Error::none);
        Time before = now();
        CHECK_EQ(c.stream.flush(), Error::timeout);
        CHECK(now() - before == 10_ms);
        c.stream.settimeout(0_s);
        CHECK_EQ(c.stream.flush(), Error::timeout);
        c.open();
        CHECK_EQ(c.stream.flush(), Error::none);
        CHECK(c.peer.receive() == "bytes");
    });
}

TEST(a_canceled_flush_loses_nothing) {
    World world;
    Dammed c{world};
    (void)world.run([&] {
        EXPECT(c.stream.send("bytes"), 5, Error::none);
        Result<Thread> flusher = addthread([&] {
            CHECK_EQ(c.stream.flush(), Error::canceled);
        });
        (void)sleep_for(1_ms);
        (void)flusher->cancel();
        (void)flusher->join();
        c.open();
    });
    CHECK(c.peer.receive() == "bytes");
}

// Failure -----------------------------------------------------------------------------------------

namespace {

// A connection whose peer is gone; a deferred write has failed because of it.
struct Broken : Connected {
    explicit Broken(World& world) : Connected{} {
        peer.close();
        (void)world;
        (void)stream.send("lost bytes");
        (void)step(0_s);
    }
};

}  // namespace

TEST(a_deferred_writes_error_is_told_by_the_next_call) {
    World world;
    for (int variant = 0; variant < 5; ++variant) {
        Broken c{world};
        CHECK_EQ(status().lost, 10u * (variant + 1));
        CHECK_EQ(status().buffered, 0u);
        (void)world.run([&] {
            std::string_view pieces[] = {"x", "y"};
            switch (variant) {
            case 0: EXPECT(c.stream.send("more"), 0, Error::closed); break;
            case 1: EXPECT(c.stream.send("more", 3), 2, Error::closed); break;
            case 2: EXPECT(c.stream.send(pieces), 0, Error::closed); break;
            case 3: CHECK_EQ(c.stream.flush(), Error::closed); break;
            case 4: CHECK_EQ(c.stream.close().code(), EPIPE); break;
            }
            // Once told, closing has nothing to add.
            CHECK_EQ(c.stream.close(), Error::none);
        });
        CHECK_EQ(status().lost, 10u * (variant + 1));
    }
}

TEST(a_failed_write_of_a_large_send_is_told_at_once) {
    World world;
    Connected c;
    c.peer.close();
    (void)world.run([&] {
        // What would fit below the mark is not put there for nobody.
        std::string text = test::pattern(mark + 10);
        EXPECT(c.stream.send(text), 0, Error::closed);
        CHECK_EQ(status().buffered, 0u);
        CHECK_EQ(status().lost, 0u);
        CHECK_EQ(c.stream.close(), Error::none);
    });
}

TEST(a_write_that_fails_halfway_tells_how_much_was_taken) {
    World world;
    Connected c;
    (void)world.run([&] {
        int writes = 0;
        world.sends = [](int, size_t) { return size_t{1000}; };
        world.fault = [&](Call call, int) {
            return call == Call::send && ++writes == 4 ? EPIPE : 0;
        };
        EXPECT(c.stream.send("0123456789"), 10, Error::none);
        EXPECT(c.stream.send(test::pattern(2 * mark)), 2990, Error::closed);
        CHECK_EQ(status().lost, 0u);
        CHECK_EQ(c.stream.getstats().sent, 3000u);
    });
    world.sends = nullptr;
}

TEST(a_broken_direction_leaves_the_other_open) {
    World world;
    Connected c{Kind::tcp};
    (void)world.run([&] {
        c.peer.send("still to be read");
        world.fault = [](Call call, int) { return call == Call::send ? EPIPE : 0; };
        (void)c.stream.send("x");
        CHECK_EQ(c.stream.flush(), Error::closed);
        CHECK(c.stream.receive(16).value == "still to be read");
        world.fault = nullptr;
    });
}

TEST(every_kind_of_write_error_keeps_its_number) {
    World world;
    for (int number : {EPIPE, ECONNRESET, ETIMEDOUT, EHOSTUNREACH, ENOBUFS, EIO}) {
        Connected c;
        (void)world.run([&] {
            world.fault = [&](Call call, int) { return call == Call::send ? number : 0; };
            (void)c.stream.send("x");
            Error error = c.stream.flush();
            CHECK_EQ(error, Error::from_errno(number));
            CHECK_EQ(error.code(), number);
            world.fault = nullptr;
            EXPECT(c.stream.send("y"), 0, Error::from_errno(number));
        });
    }
}

TEST(a_parked_sender_hears_of_the_peers_reset) {
    World world{World::real_time};
    Connected c{Kind::tcp, 1};
    (void)world.run([&] {
        REQUIRE(addthread([&] {
            std::string text = test::pattern(4 << 20);
            Result<size_t> sent = c.stream.send(text);
            CHECK_EQ(sent.error, Error::closed);
            CHECK(*sent < text.size());
        }));
        REQUIRE(addthread([&] {
            (void)c.peer.receive_exactly(100000);
            c.peer.reset();
        }));
    });
}

TEST(a_parked_flusher_hears_of_the_peers_reset) {
    World world{World::real_time};
    Connected c{Kind::tcp, 1};
    (void)world.run([&] {
        c.stream.setlimit(0, 8 << 20);
        CHECK_EQ(c.stream.send(test::pattern(8 << 20)).error, Error::none);
        REQUIRE(addthread([&] {
            CHECK_EQ(c.stream.flush(), Error::closed);
            CHECK_EQ(c.stream.close(), Error::none);
        }));
        REQUIRE(addthread([&] {
            (void)c.peer.receive_exactly(100000);
            c.peer.reset();
        }));
    });
    CHECK(status().lost > 0);
}

TEST(accepted_bytes_reach_the_kernel_or_are_counted_as_lost) {
    World world{World::real_time};
    std::string reply = test::pattern(65536 * 2);
    test::Random random{11};
    uint64_t lost_before = 0;
    for (size_t i = 0; i < 300; ++i) {
        // The peer resets after so many bytes of the reply.
        size_t reset_at = i < 40 ? i : random.below(reply.size());
        Connected c{Kind::tcp, i % 2 ? 1 : 0};
        uint64_t accepted = 0, sent = 0;
        int told = 0;
        (void)world.run([&] {
            REQUIRE(addthread([&] {
                (void)c.peer.receive_exactly(reset_at);
                c.peer.reset();
            }));
            for (size_t at = 0; at < reply.size() && !told;) {
                size_t size = random.between(1, random.below(2) ? 500 : 100000);
                std::string_view piece = std::string_view(reply).substr(at, size);
                Result<size_t> result = c.stream.send(piece);
                accepted += *result;
                at += *result;
                CHECK(*result == piece.size() || result.error);
                told += bool(result.error);
                if (random.below(3) == 0) (void)yield();
                if (!told && random.below(10) == 0) told += bool(c.stream.flush());
            }
            if (!told) told += bool(c.stream.flush());
            sent = c.stream.getstats().sent;
            if (told) CHECK_EQ(c.stream.close(), Error::none);
            else (void)c.stream.close();
        });
        CHECK_EQ(accepted, sent + status().lost - lost_before);
        lost_before = status().lost;
    }
}

// Ending ------------------------------------------------------------------------------------------

TEST(a_half_close_ends_after_the_bytes_sent_so_far) {
    World world;
    for (Kind kind : {Kind::unix_pair, Kind::tcp}) {
        Connected c{kind};
        std::string text = test::pattern(mark);
        world.sends = [](int, size_t) { return size_t{5000}; };
        (void)world.run([&] {
            EXPECT(c.stream.send(text), text.size(), Error::none);
            CHECK_EQ(c.stream.shutdown(How::send), Error::none);
            EXPECT(c.stream.send("more"), 0, Error::closed);
            CHECK_EQ(c.stream.flush(), Error::none);
            CHECK(c.peer.receive_to_end() == text);
            CHECK_EQ(c.peer.error, 0);
            c.peer.send("late reply");
            c.peer.end();
            CHECK(c.stream.receive("*a").value == "late reply");
        });
        world.sends = nullptr;
    }
}

TEST(a_half_close_without_bytes_is_told_at_once) {
    World world;
    Connected c;
    CHECK_EQ(c.stream.shutdown(How::send), Error::none);
    CHECK(c.peer.receive().empty());
    CHECK(c.peer.ended);
    CHECK_EQ(c.stream.shutdown(How::send), Error::none);
}

TEST(receiving_can_be_ended_alone) {
    World world;
    Connected c;
    (void)world.run([&] {
        REQUIRE(addthread([&] { CHECK_EQ(c.stream.receive("*l").error, Error::closed); }));
        (void)sleep_for(1_ms);
        CHECK_EQ(c.stream.shutdown(How::receive), Error::none);
        (void)sleep_for(1_ms);
        EXPECT(c.stream.send("x"), 1, Error::none);
        CHECK_EQ(c.stream.flush(), Error::none);
        CHECK(c.peer.receive() == "x");
    });
}

TEST(a_sender_that_ends_the_stream_under_a_parked_one_cuts_it_short) {
    World world;
    Dammed c{world};
    std::string text = test::pattern(2 * mark);
    size_t taken = 0;
    (void)world.run([&] {
        EXPECT(c.stream.send("first"), 5, Error::none);
        REQUIRE(addthread([&] {
            Result<size_t> sent = c.stream.send(text);
            taken = *sent;
            CHECK(sent.error == Error::none || sent.error == Error::closed);
        }));
        (void)sleep_for(1_ms);
        CHECK_EQ(c.stream.shutdown(How::send), Error::none);
        c.open();
        std::string all = c.peer.receive_to_end();
        CHECK(all == "first" + text.substr(0, taken));
    });
}

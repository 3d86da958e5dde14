// Receive: what every pattern gives, however the bytes come and whatever cuts the wait short.
#include "faulty_system.h"
#include "peer.h"
#include "test.h"

#include "net/buffer.h"

#include <signal.h>
#include <sys/time.h>
#include <vector>

using namespace copse;
using namespace copse::literals;
using test::Call;
using test::Connected;
using test::Kind;
using test::Peer;
using test::World;

// Looked at by the library's scan for line ends. A plain loop: nothing in here may be turned into a
// call of itself.
static uint64_t bytes_scanned = 0;
extern "C" void* counting_memchr(const void* memory, int byte, size_t size) __asm__("memchr");
extern "C" void* counting_memchr(const void* memory, int byte, size_t size) {
    auto* at = static_cast<const volatile unsigned char*>(memory);
    for (size_t i = 0; i < size; ++i) {
        ++bytes_scanned;
        if (at[i] == static_cast<unsigned char>(byte))
            return const_cast<unsigned char*>(static_cast<const unsigned char*>(memory)) + i;
    }
    return nullptr;
}

namespace {

// What one call gave, kept beyond the life of the view.
struct Got {
    std::string text;
    Error error;
    friend bool operator==(const Got& a, const Got& b) {
        return a.text == b.text && a.error == b.error;
    }
};
template <class View> Got keep(const Result<View>& result) {
    return {{result.value.data(), result.value.size()}, result.error};
}
void expect(const Got& got, std::string_view text, Error error, int line) {
    if (got.text == text && got.error == error) return;
    test::fail(__FILE__, line, "what was received");
    fprintf(stderr, "    got {%zu bytes \"%.60s\", %s}, not {%zu bytes \"%.60s\", %s}\n",
            got.text.size(), got.text.c_str(), got.error.message(), text.size(),
            std::string(text).c_str(), error.message());
}
#define EXPECT(result, text, error) expect(keep(result), text, error, __LINE__)

// Gives the pieces to the stream one wake-up at a time.
void feed(Peer& peer, std::vector<std::string> pieces, bool end = false) {
    REQUIRE(addthread([&peer, pieces, end] {
        for (const std::string& piece : pieces) {
            (void)sleep_for(1_ms);
            peer.send(piece);
        }
        (void)sleep_for(1_ms);
        if (end) peer.end();
    }));
}

}  // namespace

// Lines -----------------------------------------------------------------------------------------

TEST(a_line_comes_without_its_line_feed) {
    World world;
    Connected c;
    (void)world.run([&] {
        c.peer.send("first\nsecond\n\nlast");
        EXPECT(c.stream.receive(), "first", Error::none);
        EXPECT(c.stream.receive("*l"), "second", Error::none);
        EXPECT(c.stream.receive("*l"), "", Error::none);
    });
}

TEST(every_carriage_return_in_a_line_is_dropped) {
    World world;
    Connected c;
    (void)world.run([&] {
        c.peer.send("cd\r\re\nHTTP/1.0\r\n\r\n\r\r\r\n");
        EXPECT(c.stream.receive("*l"), "cde", Error::none);
        EXPECT(c.stream.receive("*l"), "HTTP/1.0", Error::none);
        EXPECT(c.stream.receive("*l"), "", Error::none);
        EXPECT(c.stream.receive("*l"), "", Error::none);
    });
}

TEST(a_line_is_put_together_from_its_pieces) {
    World world;
    Connected c;
    (void)world.run([&] {
        feed(c.peer, {"a", "b", "c\r", "\nd", "e\n"});
        EXPECT(c.stream.receive("*l"), "abc", Error::none);
        EXPECT(c.stream.receive("*l"), "de", Error::none);
    });
}

TEST(an_end_before_the_line_feed_gives_the_rest_and_closed) {
    World world;
    Connected c;
    (void)world.run([&] {
        feed(c.peer, {"line\nre", "s\rt"}, true);
        EXPECT(c.stream.receive("*l"), "line", Error::none);
        EXPECT(c.stream.receive("*l"), "rest", Error::closed);
        EXPECT(c.stream.receive("*l"), "", Error::closed);
        EXPECT(c.stream.receive(1), "", Error::closed);
        EXPECT(c.stream.receive("*a"), "", Error::closed);
        EXPECT(c.stream.receive(0), "", Error::closed);
    });
}

TEST(zero_bytes_are_bytes_like_any_other) {
    World world;
    Connected c;
    (void)world.run([&] {
        c.peer.send(std::string_view("a\0b\n\0\0", 6));
        EXPECT(c.stream.receive("*l"), std::string_view("a\0b", 3), Error::none);
        EXPECT(c.stream.receive(2), std::string_view("\0\0", 2), Error::none);
    });
}

// All -------------------------------------------------------------------------------------------

TEST(all_is_everything_until_the_end) {
    World world;
    Connected together, apart;
    (void)world.run([&] {
        together.peer.send("one\ntwo\r\n");
        together.peer.end();
        EXPECT(together.stream.receive("*a"), "one\ntwo\r\n", Error::none);
        EXPECT(together.stream.receive("*a"), "", Error::closed);
        // The end comes in a wake-up of its own.
        feed(apart.peer, {"one", "two"}, true);
        EXPECT(apart.stream.receive("*a"), "onetwo", Error::none);
        EXPECT(apart.stream.receive("*a"), "", Error::closed);
    });
}

TEST(all_of_nothing_is_the_prefix_and_closed) {
    World world;
    Connected c;
    (void)world.run([&] {
        c.peer.end();
        EXPECT(c.stream.receive("*a", "before"), "before", Error::closed);
        EXPECT(c.stream.receive("*a"), "", Error::closed);
    });
}

TEST(all_counts_what_was_buffered_before_the_end_was_known) {
    World world;
    Connected c;
    (void)world.run([&] {
        c.peer.send("line\nrest");
        EXPECT(c.stream.receive("*l"), "line", Error::none);
        c.peer.end();
        EXPECT(c.stream.receive("*a", "the "), "the rest", Error::none);
    });
}

TEST(a_reset_is_no_end_of_all) {
    World world;
    Connected c{Kind::tcp};
    (void)world.run([&] {
        feed(c.peer, {"part of it"});
        REQUIRE(addthread([&] {
            (void)sleep_for(5_ms);
            c.peer.reset();
        }));
        Result<std::string_view> all = c.stream.receive("*a");
        EXPECT(all, "part of it", Error::closed);
        CHECK_EQ(all.error.code(), ECONNRESET);
    });
}

TEST(a_reset_that_the_sender_heard_of_first_is_no_end_of_all_either) {
    World world;
    Connected c{Kind::tcp};
    (void)world.run([&] {
        c.peer.send("part of it");
        EXPECT(c.stream.receive(4), "part", Error::none);
        c.peer.reset();
        // The kernel tells of a reset once.
        (void)c.stream.send("x");
        CHECK_EQ(c.stream.flush(), Error::closed);
        Result<std::string_view> all = c.stream.receive("*a");
        EXPECT(all, " of it", Error::closed);
        CHECK_EQ(all.error.code(), ECONNRESET);
    });
}

// Counts ----------------------------------------------------------------------------------------

TEST(a_count_is_that_many_bytes) {
    World world;
    Connected c;
    (void)world.run([&] {
        feed(c.peer, {"abc", "de", "fgh\n"}, true);
        EXPECT(c.stream.receive(2), "ab", Error::none);
        EXPECT(c.stream.receive(5), "cdefg", Error::none);
        EXPECT(c.stream.receive(3), "h\n", Error::closed);
    });
}

TEST(a_count_of_zero_waits_until_there_is_something_to_read) {
    World world;
    Connected c;
    (void)world.run([&] {
        feed(c.peer, {"ab"}, true);
        Time before = now();
        EXPECT(c.stream.receive(0), "", Error::none);
        CHECK(now() - before == 1_ms);
        CHECK(c.stream.dirty());
        EXPECT(c.stream.receive(0), "", Error::none);
        EXPECT(c.stream.receive(2), "ab", Error::none);
        EXPECT(c.stream.receive(0), "", Error::closed);
    });
}

TEST(a_count_of_zero_times_out) {
    World world;
    Connected c;
    (void)world.run([&] {
        c.stream.settimeout(5_ms);
        EXPECT(c.stream.receive(0), "", Error::timeout);
        c.peer.send("x");
        EXPECT(c.stream.receive(0), "", Error::none);
    });
}

TEST(a_count_that_the_prefix_covers_touches_nothing) {
    World world;
    Connected c;
    (void)world.run([&] {
        c.peer.send("more");
        (void)sleep_for(1_ms);
        EXPECT(c.stream.receive(3, "abc"), "abc", Error::none);
        EXPECT(c.stream.receive(1, "abc"), "abc", Error::none);
        EXPECT(c.stream.receive(0, "abc"), "abc", Error::none);
        CHECK_EQ(world.of_call(Call::receive), 0u);
        EXPECT(c.stream.receive(4), "more", Error::none);
    });
    // Not even a thread.
    EXPECT(c.stream.receive(3, "abc"), "abc", Error::none);
}

TEST(a_negative_count_is_invalid) {
    World world;
    Connected c;
    (void)world.run([&] {
        c.peer.send("x");
        EXPECT(c.stream.receive(-1, "before"), "before", Error::invalid);
        EXPECT(c.stream.receivepartial(-1), "", Error::invalid);
        EXPECT(c.stream.receive(1), "x", Error::none);
    });
}

// Prefixes --------------------------------------------------------------------------------------

TEST(a_prefix_goes_in_front_and_counts) {
    World world;
    Connected c;
    (void)world.run([&] {
        c.peer.send("cd\nefgh");
        c.peer.end();
        EXPECT(c.stream.receive("*l", "ab"), "abcd", Error::none);
        EXPECT(c.stream.receive(5, "123"), "123ef", Error::none);
        EXPECT(c.stream.receive(9, "123"), "123gh", Error::closed);
        EXPECT(c.stream.receive("*l", "123"), "123", Error::closed);
    });
}

TEST(ends_of_lines_in_a_prefix_are_the_callers) {
    World world;
    Connected c;
    (void)world.run([&] {
        c.peer.send("x\ry\n");
        EXPECT(c.stream.receive("*l", "a\nb\r"), "a\nb\rxy", Error::none);
    });
}

TEST(a_prefix_may_be_the_partial_itself) {
    World world;
    Connected c;
    (void)world.run([&] {
        feed(c.peer, {"ab\rc", "d\r", "ef\ngh", "ij\n"});
        Result<std::string_view> got = c.stream.receivepartial("*l");
        for (int i = 0; got.error == Error::timeout && i < 10; ++i)
            got = c.stream.receivepartial("*l", got.value);
        EXPECT(got, "abcdef", Error::none);
        got = c.stream.receivepartial(4);
        EXPECT(got, "gh", Error::timeout);
        EXPECT(c.stream.receive(4, got.value), "ghij", Error::none);
        got = c.stream.receivepartial(3);
        EXPECT(got, "\n", Error::timeout);
        c.peer.send("k");
        c.peer.end();
        // A part of the partial, and what it was put behind.
        EXPECT(c.stream.receive("*a", got.value.substr(1)), "k", Error::none);
    });
}

TEST(a_prefix_longer_than_the_buffer_is_kept_whole) {
    World world;
    Connected c;
    std::string before = test::pattern(100000);
    (void)world.run([&] {
        c.stream.setlimit(1 << 20, 0);
        c.peer.send("rest of a\nline");
        EXPECT(c.stream.receive("*l", before), before + "rest of a", Error::none);
        EXPECT(c.stream.receive(4), "line", Error::none);
    });
}

// Partials --------------------------------------------------------------------------------------

TEST(receivepartial_returns_with_the_first_bytes) {
    World world;
    Connected c;
    (void)world.run([&] {
        feed(c.peer, {"ab", "cd\nef"}, true);
        EXPECT(c.stream.receivepartial("*l"), "ab", Error::timeout);
        EXPECT(c.stream.receivepartial("*l", "ab"), "abcd", Error::none);
        EXPECT(c.stream.receivepartial(9, "x"), "xef", Error::timeout);
        EXPECT(c.stream.receivepartial(9, "x"), "x", Error::closed);
    });
}

TEST(receivepartial_waits_for_a_byte_beyond_the_prefix) {
    World world;
    Connected c;
    (void)world.run([&] {
        c.stream.settimeout(3_ms);
        Time before = now();
        EXPECT(c.stream.receivepartial("*l", "abc"), "abc", Error::timeout);
        CHECK(now() - before == 3_ms);
    });
}

// Spans -----------------------------------------------------------------------------------------

TEST(a_span_is_filled_exactly) {
    World world;
    Connected c;
    (void)world.run([&] {
        feed(c.peer, {"abc", "def", "ghi"}, true);
        char room[8] = "-------";
        EXPECT(c.stream.receive(std::span<char>(room, 5)), "abcde", Error::none);
        CHECK_EQ(room[5], '-');
        EXPECT(c.stream.receive(std::span<char>(room, 3)), "fgh", Error::none);
        EXPECT(c.stream.receive(std::span<char>(room, 3)), "i", Error::closed);
        EXPECT(c.stream.receive(std::span<char>(room, 0)), "", Error::none);
    });
}

TEST(a_span_takes_what_is_buffered_first) {
    World world;
    Connected c;
    std::string text = test::pattern(60000), line = "line\n";
    (void)world.run([&] {
        feed(c.peer, {line + text.substr(0, 10), text.substr(10)});
        EXPECT(c.stream.receive("*l"), "line", Error::none);
        std::string room(text.size(), 0);
        EXPECT(c.stream.receive(std::span<char>(room)), text, Error::none);
        CHECK(room == text);
    });
}

TEST(a_large_span_is_filled_straight_from_the_kernel) {
    World world;
    Connected c;
    std::string text = test::pattern(100000);
    (void)world.run([&] {
        c.peer.send(text);
        std::string room(text.size(), 0);
        size_t held = world.most_held;
        EXPECT(c.stream.receive(std::span<char>(room)), text, Error::none);
        CHECK_EQ(world.most_held, held);
        CHECK_EQ(world.of_call(Call::receive), 1u);
    });
}

TEST(receive_some_gives_what_there_is) {
    World world;
    Connected c;
    (void)world.run([&] {
        char room[4];
        feed(c.peer, {"ab\ncdefg"}, true);
        EXPECT(c.stream.receive_some(std::span<char>(room, 2)), "ab", Error::none);
        EXPECT(c.stream.receive_some(std::span<char>(room, 4)), "\ncde", Error::none);
        EXPECT(c.stream.receive(1), "f", Error::none);
        EXPECT(c.stream.receive_some(std::span<char>(room, 4)), "g", Error::none);
        EXPECT(c.stream.receive_some(std::span<char>(room, 0)), "", Error::none);
        EXPECT(c.stream.receive_some(std::span<char>(room, 4)), "", Error::closed);
    });
}

// Views and buffers -----------------------------------------------------------------------------

TEST(a_view_lives_until_the_next_receive) {
    World world;
    Connected c, other;
    std::string line = test::pattern(5000);
    (void)world.run([&] {
        c.peer.send(line + "\n");
        Result<std::string_view> got = c.stream.receive("*l");
        // Everything that could take the buffer away.
        for (int i = 0; i < 20; ++i) {
            other.peer.send("abc\n");
            (void)other.stream.receive("*l");
            (void)other.stream.send(std::string(4000, 'z'));
            (void)c.stream.send("x");
            c.peer.send("more");
            (void)sleep_for(1_ms);
        }
        EXPECT(got, line, Error::none);
    });
}

TEST(a_stream_that_waits_owns_no_buffer) {
    World world;
    constexpr int number = 100;
    std::vector<Connected> idle(number);
    (void)world.run([&] {
        std::string line = test::pattern(30000);
        for (Connected& c : idle) {
            REQUIRE(addthread([&] {
                c.peer.send(line + "\n");
                EXPECT(c.stream.receive("*l"), line, Error::none);
                EXPECT(c.stream.receive("*l"), "", Error::closed);
            }));
        }
        (void)sleep_for(1_ms);
        // They waited one after the other, and one buffer was enough for all.
        CHECK(world.most_held < 1 << 20);
        for (Connected& c : idle) c.peer.end();
    });
}

TEST(the_kernel_is_asked_once_for_what_came_together) {
    World world;
    Connected c;
    (void)world.run([&] {
        for (int i = 0; i < 100; ++i) c.peer.send("a line of a hundred\n");
        for (int i = 0; i < 100; ++i)
            EXPECT(c.stream.receive("*l"), "a line of a hundred", Error::none);
        CHECK_EQ(world.of_call(Call::receive), 1u);
    });
}

TEST(without_memory_nothing_is_lost) {
    World world;
    Connected c;
    (void)world.run([&] {
        c.peer.send("abc");
        world.fault = [](Call call, int) { return call == Call::allocate ? ENOMEM : 0; };
        EXPECT(c.stream.receive(3), "", Error::no_memory);
        EXPECT(c.stream.receive(3, "x"), "x", Error::no_memory);
        char room[3];
        EXPECT(c.stream.receive_some(std::span<char>(room)), "abc", Error::none);
        c.peer.send("def");
        world.fault = nullptr;
        EXPECT(c.stream.receive(3), "def", Error::none);
    });
}

TEST(without_memory_for_more_the_partial_is_kept) {
    World world;
    Connected c;
    std::string line = test::pattern(50000);
    (void)world.run([&] {
        size_t given = 0;
        world.fault = [&](Call call, int) {
            return call == Call::allocate && given++ > 0 ? ENOMEM : 0;
        };
        c.peer.send(line + "\n");
        Got part = keep(c.stream.receive("*l"));
        CHECK_EQ(part.error, Error::no_memory);
        CHECK(!part.text.empty());
        world.fault = nullptr;
        Got rest = keep(c.stream.receive("*l"));
        CHECK_EQ(rest.error, Error::none);
        CHECK(part.text + rest.text == line);
    });
}

// The same dialogue, cut anyhow ------------------------------------------------------------------

namespace {

struct Operation {
    enum What { line, all, count, span, some } what;
    size_t size;         // of count and span
    std::string prefix;  // of line, all and count
};

struct Dialogue {
    std::string input;  // and then the end
    size_t limit;
    std::vector<Operation> operations;
};

Dialogue dialogue(uint64_t seed) {
    test::Random random{seed};
    Dialogue made;
    size_t size = random.below(120);
    for (size_t i = 0; i < size; ++i) made.input += "aab\r\n\nc"[random.below(7)];
    made.limit = random.below(3) ? random.between(1, 30) : 65536;
    for (int i = 0; i < 40; ++i) {
        auto what = Operation::What(random.below(40) ? random.below(4) : 1);
        if (what == Operation::all && random.below(4)) what = Operation::line;
        std::string prefix;
        if (!random.below(4))
            for (size_t n = random.below(8); n; --n) prefix += "x\r\n"[random.below(3)];
        made.operations.push_back({what, random.below(12), prefix});
    }
    return made;
}

std::string without_cr(std::string text, size_t from) {
    std::string out = text.substr(0, from < text.size() ? from : text.size());
    for (size_t i = out.size(); i < text.size(); ++i)
        if (text[i] != '\r') out += text[i];
    return out;
}

// What the contract says, knowing the whole input.
Got model(const Operation& operation, std::string& rest, size_t limit) {
    const std::string& prefix = operation.prefix;
    auto give = [&rest](std::string text, Error error) -> Got {
        rest.clear();
        return {text, error};
    };
    if (operation.what == Operation::span) {
        if (rest.size() < operation.size) return give(rest, Error::closed);
        Got got{rest.substr(0, operation.size), Error::none};
        rest.erase(0, operation.size);
        return got;
    }
    if (operation.what == Operation::count && !prefix.empty() && prefix.size() >= operation.size)
        return {prefix, Error::none};
    std::string data = prefix + rest;
    if (operation.what == Operation::count) {
        if (data.size() < operation.size || data.empty()) return give(data, Error::closed);
        rest = data.substr(operation.size);
        return {data.substr(0, operation.size), Error::none};
    }
    bool line = operation.what == Operation::line;
    size_t lf = line ? data.find('\n', prefix.size()) : data.npos;
    if (lf != data.npos && lf <= limit) {
        rest = data.substr(lf + 1);
        return {without_cr(data.substr(0, lf), prefix.size()), Error::none};
    }
    if (data.size() > limit) {
        rest = data.substr(limit);
        std::string text = data.substr(0, limit);
        return {line ? without_cr(text, prefix.size()) : text, Error::oversized};
    }
    bool any = data.size() > prefix.size();
    return give(line ? without_cr(data, prefix.size()) : data,
                line || !any ? Error::closed : Error::none);
}

Got perform(Stream& stream, const Operation& operation) {
    switch (operation.what) {
    case Operation::line: return keep(stream.receive("*l", operation.prefix));
    case Operation::all: return keep(stream.receive("*a", operation.prefix));
    case Operation::count: return keep(stream.receive(operation.size, operation.prefix));
    default: break;
    }
    std::string room(operation.size, 0);
    return keep(stream.receive(std::span<char>(room)));
}

// Performs the dialogue and compares each answer with the model's; false at the first that differs.
bool as_the_model_says(Stream& stream, const Dialogue& dialogue, uint64_t seed) {
    stream.setlimit(dialogue.limit, 0);
    std::string rest = dialogue.input;
    for (size_t i = 0; i < dialogue.operations.size(); ++i) {
        Got expected = model(dialogue.operations[i], rest, dialogue.limit);
        Got got = perform(stream, dialogue.operations[i]);
        if (got == expected) continue;
        fprintf(stderr, "seed %llu, operation %zu (%d, %zu, prefix %zu): {%s, %s}, not {%s, %s}\n",
                (unsigned long long)seed, i, int(dialogue.operations[i].what),
                dialogue.operations[i].size, dialogue.operations[i].prefix.size(), got.text.c_str(),
                got.error.message(), expected.text.c_str(), expected.error.message());
        return false;
    }
    return true;
}

constexpr uint64_t seeds = 1500;

}  // namespace

TEST(segments_of_any_sizes_give_the_same_results) {
    World world;
    for (uint64_t seed = 1; seed <= seeds; ++seed) {
        Dialogue d = dialogue(seed);
        Connected c;
        bool same = false;
        (void)world.run([&] {
            std::vector<std::string> pieces;
            test::Random random{seed + 1000000};
            for (size_t at = 0; at < d.input.size();) {
                size_t size = random.between(1, random.below(2) ? 3 : 40);
                pieces.push_back(d.input.substr(at, size));
                at += size;
            }
            feed(c.peer, pieces, true);
            same = as_the_model_says(c.stream, d, seed);
        });
        REQUIRE(same);
    }
}

TEST(reads_of_any_sizes_give_the_same_results) {
    World world;
    for (uint64_t seed = 1; seed <= seeds; ++seed) {
        Dialogue d = dialogue(seed);
        Connected c;
        test::Random random{seed + 2000000};
        size_t most = random.between(1, 20);
        world.receives = [&](int, size_t) { return random.below(most + 1); };
        bool same = false;
        c.peer.send(d.input);
        c.peer.end();
        (void)world.run([&] { same = as_the_model_says(c.stream, d, seed); });
        world.receives = nullptr;
        REQUIRE(same);
    }
}

TEST(a_peer_that_hung_up_is_read_to_the_end_by_short_reads) {
    // No event will ever come again: what was said before must be enough.
    World world;
    for (Kind kind : {Kind::unix_pair, Kind::tcp}) {
        Connected c{kind};
        std::string text = test::pattern(100000);
        (void)world.run([&] {
            REQUIRE(addthread([&] {
                c.peer.send_whole(text);
                c.peer.close();
            }));
            (void)sleep_for(1_ms);
            std::string all;
            char room[777];
            for (;;) {
                Result<std::span<char>> some = c.stream.receive_some(room);
                all.append(some->data(), some->size());
                if (some) continue;
                CHECK_EQ(some.error, Error::closed);
                break;
            }
            CHECK(all == text);
        });
    }
}

TEST(a_terminal_gives_its_lines_one_at_a_time_and_none_is_missed) {
    World world;
    world.grace = 1'000'000'000;  // the kernel passes a terminal's lines on in its own time
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (master < 0 || grantpt(master) || unlockpt(master)) test::skip("no pseudo terminals here");
    int terminal = ::open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (terminal < 0) test::skip("no pseudo terminals here");
    Stream stream = wrap(terminal);
    (void)world.run([&] {
        // The kernel gives at most a line a read: a short count does not mean there is no more.
        CHECK_EQ(::write(master, "one\ntwo\nthree\n", 14), 14);
        stream.settimeout(1_s);
        EXPECT(stream.receive("*l"), "one", Error::none);
        EXPECT(stream.receive("*l"), "two", Error::none);
        EXPECT(stream.receive("*l"), "three", Error::none);
        (void)stream.close();
    });
    ::close(master);
}

TEST(a_false_alarm_costs_one_look) {
    World world;
    Connected c;
    (void)world.run([&] {
        REQUIRE(addthread([&] { EXPECT(c.stream.receive("*l"), "line", Error::none); }));
        (void)sleep_for(1_ms);
        uint64_t looked = world.of_call(Call::receive);
        for (int i = 1; i <= 100; ++i) {
            world.owe(c.stream.getfd(), PollEvent::readable);
            (void)sleep_for(1_ms);
            CHECK_EQ(world.of_call(Call::receive) - looked, uint64_t(i));
        }
        c.peer.send("line\n");
    });
}

// Limits ----------------------------------------------------------------------------------------

TEST(a_line_of_the_limit_passes_and_one_more_byte_is_oversized) {
    World world;
    for (size_t size : {size_t{9}, size_t{10}, size_t{11}}) {
        Connected c;
        (void)world.run([&] {
            c.stream.setlimit(10, 0);
            std::string line = test::pattern(size);
            feed(c.peer, {line.substr(0, 8), line.substr(8), "\nnext\n"});
            if (size <= 10) {
                EXPECT(c.stream.receive("*l"), line, Error::none);
            } else {
                EXPECT(c.stream.receive("*l"), line.substr(0, 10), Error::oversized);
                EXPECT(c.stream.receive("*l"), line.substr(10), Error::none);
            }
            EXPECT(c.stream.receive("*l"), "next", Error::none);
        });
    }
}

TEST(all_of_the_limit_passes_and_one_more_byte_is_oversized) {
    World world;
    for (size_t size : {size_t{10}, size_t{11}}) {
        Connected c;
        (void)world.run([&] {
            c.stream.setlimit(10, 0);
            std::string text = test::pattern(size);
            feed(c.peer, {text.substr(0, 10), text.substr(10)}, true);
            if (size == 10) {
                EXPECT(c.stream.receive("*a"), text, Error::none);
            } else {
                EXPECT(c.stream.receive("*a"), text.substr(0, 10), Error::oversized);
                EXPECT(c.stream.receive("*a"), text.substr(10), Error::none);
            }
        });
    }
}

TEST(a_line_is_at_most_64_kib_unless_said_otherwise) {
    World world;
    Connected c;
    std::string line = test::pattern(65536);
    (void)world.run([&] {
        REQUIRE(addthread([&] {
            c.peer.send_whole(line + "\n" + line + "z\n");
            c.stream.setlimit(0, 1);  // leaves the other as it is
        }));
        EXPECT(c.stream.receive("*l"), line, Error::none);
        EXPECT(c.stream.receive("*l"), line, Error::oversized);
        EXPECT(c.stream.receive("*l"), "z", Error::none);
    });
}

TEST(all_is_at_most_a_mebibyte_unless_said_otherwise) {
    World world;
    Connected c;
    std::string text = test::pattern((1 << 20) + 5);
    (void)world.run([&] {
        REQUIRE(addthread([&] {
            c.peer.send_whole(text);
            c.peer.end();
        }));
        EXPECT(c.stream.receive("*a"), text.substr(0, 1 << 20), Error::oversized);
        EXPECT(c.stream.receive("*a"), text.substr(1 << 20), Error::none);
    });
}

TEST(no_byte_of_a_line_that_is_oversized_is_lost) {
    World world;
    Connected c;
    std::string line = test::pattern(1000) + "\n";
    (void)world.run([&] {
        c.stream.setlimit(7, 0);
        c.peer.send(line);
        c.peer.end();
        std::string all;
        Got got;
        do {
            got = keep(c.stream.receive("*l"));
            all += got.text;
        } while (got.error == Error::oversized);
        CHECK_EQ(got.error, Error::none);
        CHECK(all + "\n" == line);
        EXPECT(c.stream.receive("*l"), "", Error::closed);
    });
}

TEST(the_limit_is_not_for_counts_and_spans) {
    World world;
    Connected c;
    (void)world.run([&] {
        c.stream.setlimit(5, 0);
        c.peer.send("0123456789abcdefghij");
        EXPECT(c.stream.receive(10), "0123456789", Error::none);
        char room[10];
        EXPECT(c.stream.receive(std::span<char>(room)), "abcdefghij", Error::none);
    });
}

TEST(a_line_bomb_costs_no_more_memory_than_the_limit) {
    World world;
    Connected c;
    (void)world.run([&] {
        size_t before = world.held;
        REQUIRE(addthread([&] {
            std::string bomb(65536, 'b');
            for (int i = 0; i < 256; ++i) c.peer.send_whole(bomb);
            c.peer.end();
        }));
        size_t taken = 0, most = 0;
        Got got;
        do {
            got = keep(c.stream.receive("*l"));
            taken += got.text.size();
            if (world.held - before > most) most = world.held - before;
        } while (got.error == Error::oversized);
        CHECK_EQ(got.error, Error::closed);
        CHECK_EQ(taken, size_t{256} * 65536);
        CHECK(most <= 65536 * 4);
    });
}

TEST(a_long_line_in_single_bytes_costs_linear_work) {
    World world;
    Connected c;
    constexpr size_t size = 200000;
    std::string line = test::pattern(size) + "\n";
    (void)world.run([&] {
        c.stream.setlimit(size, 0);
        REQUIRE(addthread([&] { c.peer.send_whole(line); }));
        world.receives = [](int, size_t) { return size_t{1}; };
        bytes_scanned = 0;
        uint64_t allocations = world.of_call(Call::allocate);
        EXPECT(c.stream.receive("*l"), line.substr(0, size), Error::none);
        // Every byte is looked at once for a line feed and once for a carriage return, and the
        // buffer doubles.
        CHECK(bytes_scanned <= 3 * size);
        CHECK(world.of_call(Call::allocate) - allocations <= 20);
    });
}

TEST(a_large_count_commits_memory_only_as_it_comes) {
    World world;
    Connected c;
    (void)world.run([&] {
        feed(c.peer, {"not much"}, true);
        size_t before = world.held;
        world.most_held = before;
        EXPECT(c.stream.receive(size_t{1} << 40), "not much", Error::closed);
        CHECK(world.most_held - before <= 65536);
    });
}

// Time ------------------------------------------------------------------------------------------

TEST(a_call_that_times_out_keeps_what_came) {
    World world;
    Connected c;
    (void)world.run([&] {
        c.stream.settimeout(10_ms);
        feed(c.peer, {"ab", "cd"});
        Time before = now();
        EXPECT(c.stream.receive("*l"), "abcd", Error::timeout);
        CHECK(now() - before == 10_ms);
        EXPECT(c.stream.receive(3), "", Error::timeout);
        char room[9];
        c.peer.send("ef");
        EXPECT(c.stream.receive(std::span<char>(room)), "ef", Error::timeout);
        EXPECT(c.stream.receive_some(std::span<char>(room)), "", Error::timeout);
    });
}

TEST(a_timeout_at_any_byte_loses_and_invents_none) {
    World world;
    const std::string input = "first\nse\rcond\n0123456789rest\n";
    for (size_t cut = 0; cut <= input.size(); ++cut) {
        for (bool with_prefix : {true, false}) {
            Connected c;
            (void)world.run([&] {
                c.stream.settimeout(5_ms);
                c.peer.send(input.substr(0, cut));
                bool late = false;
                constexpr Pattern line = "*l";
                auto whole = [&](const Pattern& pattern) {
                    std::string text;
                    for (;;) {
                        Got got = keep(with_prefix ? c.stream.receive(pattern, text)
                                                   : c.stream.receive(pattern));
                        text = with_prefix ? got.text : text + got.text;
                        if (got.error != Error::timeout) return text;
                        CHECK(!late);
                        late = true;
                        c.peer.send(input.substr(cut));
                    }
                };
                CHECK(whole(line) == "first");
                CHECK(whole(line) == "second");
                // Without the prefix the rest of a count is for the caller to know.
                if (with_prefix) CHECK(whole(10) == "0123456789");
                CHECK(whole(line) == (with_prefix ? "rest" : "0123456789rest"));
            });
        }
    }
}

TEST(dripping_bytes_do_not_extend_the_call) {
    World world;
    Connected c;
    bool over = false;
    (void)world.run([&] {
        REQUIRE(addthread([&] {
            while (!over) {
                c.peer.send("x");
                (void)sleep_for(900_ms);
            }
        }));
        c.stream.settimeout(10_s);
        char room[50];
        for (int i = 0; i < 3; ++i) {
            Time before = now();
            Got got = i == 0   ? keep(c.stream.receive("*l"))
                      : i == 1 ? keep(c.stream.receive(1000))
                               : keep(c.stream.receive(std::span<char>(room)));
            CHECK_EQ(got.error, Error::timeout);
            CHECK(got.text.size() >= 10 && got.text.size() <= 13);
            CHECK(now() - before == 10_s);
        }
        over = true;
    });
}

TEST(bytes_that_come_faster_than_they_are_read_do_not_extend_the_call_either) {
    World world;
    Connected c;
    (void)world.run([&] {
        // There is always something to read, and every read takes a second.
        world.receives = [&](int, size_t) {
            world.time += 1'000'000'000;
            c.peer.send("x");
            return size_t{1};
        };
        c.peer.send("x");
        c.stream.settimeout(10_s);
        Got got = keep(c.stream.receive("*l"));
        CHECK_EQ(got.error, Error::timeout);
        CHECK(got.text.size() <= 12);
        world.receives = nullptr;
    });
}

TEST(a_timeout_of_zero_looks_and_takes_what_is_there) {
    World world;
    Connected c;
    (void)world.run([&] {
        c.stream.settimeout(0_s);
        EXPECT(c.stream.receive("*l"), "", Error::timeout);
        c.peer.send("line\nrest");
        EXPECT(c.stream.receive("*l"), "line", Error::none);
        EXPECT(c.stream.receive("*l"), "rest", Error::timeout);
        c.peer.end();
        EXPECT(c.stream.receive("*l"), "", Error::closed);
    });
}

TEST(a_negative_timeout_waits_for_ever) {
    World world;
    Connected c;
    (void)world.run([&] {
        c.stream.settimeout(5_ms);
        c.stream.settimeout(-1_s);
        REQUIRE(addthread([&] {
            (void)sleep_for(1000000_s);
            c.peer.send("x");
        }));
        EXPECT(c.stream.receive(1), "x", Error::none);
    });
}

TEST(an_enclosing_scope_ends_a_receive) {
    World world;
    Connected c;
    (void)world.run([&] {
        c.stream.settimeout(10_s);
        c.peer.send("ab");
        Timeout scope{5_ms};
        EXPECT(c.stream.receive("*l"), "ab", Error::timeout);
        CHECK(scope.expired());
        EXPECT(c.stream.receive("*l"), "", Error::timeout);
    });
}

// Who may receive ---------------------------------------------------------------------------------

TEST(a_second_receiver_is_busy_and_the_first_gets_its_bytes) {
    World world;
    const std::string input = "0123456789\n";
    for (int first = 0; first < 5; ++first) {
        Connected c;
        char room[10], other[10];
        std::span<char> all{room};
        (void)world.run([&] {
            REQUIRE(addthread([&] {
                switch (first) {
                case 0: EXPECT(c.stream.receive("*l"), "0123456789", Error::none); break;
                case 1: EXPECT(c.stream.receive(10), "0123456789", Error::none); break;
                case 2: EXPECT(c.stream.receive("*a"), input, Error::none); break;
                case 3: EXPECT(c.stream.receive(all), "0123456789", Error::none); break;
                case 4: EXPECT(c.stream.receive_some(all), "01234", Error::none); break;
                }
            }));
            (void)yield();
            for (int round = 0; round < 2; ++round) {
                EXPECT(c.stream.receive("*l", "p"), "p", Error::busy);
                EXPECT(c.stream.receive("*a"), "", Error::busy);
                EXPECT(c.stream.receive(3), "", Error::busy);
                EXPECT(c.stream.receive(0), "", Error::busy);
                EXPECT(c.stream.receivepartial("*l"), "", Error::busy);
                EXPECT(c.stream.receive(std::span<char>(other)), "", Error::busy);
                EXPECT(c.stream.receive_some(std::span<char>(other)), "", Error::busy);
                if (round == 0 && first != 4) {
                    c.peer.send(input.substr(0, 5));
                    (void)sleep_for(1_ms);
                }
            }
            // Sending is another direction.
            CHECK_EQ(c.stream.send("x").error, Error::none);
            c.peer.send(first == 4 ? input.substr(0, 5) : input.substr(5));
            if (first == 2) c.peer.end();
        });
    }
}

TEST(outside_a_thread_nobody_receives) {
    World world;
    Connected c;
    char room[3];
    c.peer.send("abc");
    EXPECT(c.stream.receive("*l", "p"), "p", Error::not_a_thread);
    EXPECT(c.stream.receivepartial(3), "", Error::not_a_thread);
    EXPECT(c.stream.receive(std::span<char>(room)), "", Error::not_a_thread);
    EXPECT(c.stream.receive_some(std::span<char>(room)), "", Error::not_a_thread);
    (void)world.run([&] { EXPECT(c.stream.receive(3), "abc", Error::none); });
}

TEST(a_canceled_receiver_keeps_what_came) {
    World world;
    Connected c;
    (void)world.run([&] {
        Result<Thread> reader = addthread([&] {
            EXPECT(c.stream.receive("*l"), "ab", Error::canceled);
            EXPECT(c.stream.receive("*l"), "", Error::canceled);
        });
        c.peer.send("ab");
        (void)sleep_for(1_ms);
        (void)reader->cancel();
        (void)reader->join();
        c.peer.send("c\n");
        EXPECT(c.stream.receive("*l"), "c", Error::none);
    });
}

TEST(a_receiver_is_canceled_by_bytes_that_are_not_enough) {
    World world;
    Connected c;
    (void)world.run([&] {
        Result<Thread> reader = addthread([&] {
            EXPECT(c.stream.receive("*l"), "ab", Error::canceled);
        });
        (void)sleep_for(1_ms);
        // Both have happened when it runs.
        c.peer.send("ab");
        world.waits = [&](int64_t) {
            (void)reader->cancel();
            world.waits = nullptr;
        };
        (void)sleep_for(1_ms);
        CHECK(reader->finished());
    });
}

TEST(a_fast_peer_does_not_keep_others_from_running) {
    World world;
    Connected c;
    bool over = false;
    uint64_t turns_of_other = 0, calls_between = 0, most_between = 0;
    (void)world.run([&] {
        REQUIRE(addthread([&] {
            while (!over) {
                ++turns_of_other;
                calls_between = 0;
                (void)yield();
            }
        }));
        (void)yield();
        // As fast as it is read, there is more.
        world.receives = [&](int, size_t) {
            c.peer.send("0123456789");
            if (++calls_between > most_between) most_between = calls_between;
            return SIZE_MAX;
        };
        c.peer.send("0123456789");
        char room[5];
        for (int i = 0; i < 1000; ++i) (void)c.stream.receive_some(std::span<char>(room));
        world.receives = nullptr;
        CHECK(turns_of_other >= 1000 / 65);
        CHECK(most_between <= 65);
        over = true;
    });
}

// Errors ----------------------------------------------------------------------------------------

TEST(what_the_kernel_reports_is_returned_with_what_came_before) {
    World world;
    for (int number : {ETIMEDOUT, EHOSTUNREACH, ECONNRESET, EIO}) {
        Connected c;
        (void)world.run([&] {
            feed(c.peer, {"ab"});
            int reads = 0;
            world.fault = [&](Call call, int) {
                return call == Call::receive && ++reads == 2 ? number : 0;
            };
            REQUIRE(addthread([&] {
                (void)sleep_for(5_ms);
                c.peer.send("c");
            }));
            Result<std::string_view> got = c.stream.receive("*l");
            EXPECT(got, "ab", Error::from_errno(number));
            CHECK_EQ(got.error.code(), number);
            // It stays so.
            EXPECT(c.stream.receive("*l"), "", Error::from_errno(number));
            world.fault = nullptr;
        });
    }
}

TEST(a_signal_interrupts_no_receive) {
    World world{World::real_time};
    struct sigaction action{};
    action.sa_handler = [](int) {};
    sigaction(SIGALRM, &action, nullptr);
    itimerval often{{0, 1000}, {0, 1000}}, never_again{};
    setitimer(ITIMER_REAL, &often, nullptr);
    Connected c{Kind::tcp};
    std::string text = test::pattern(4 << 20);
    std::string got(text.size(), 0);
    (void)world.run([&] {
        REQUIRE(addthread([&] { c.peer.send_whole(text); }));
        CHECK_EQ(c.stream.receive(std::span<char>(got)).error, Error::none);
    });
    setitimer(ITIMER_REAL, &never_again, nullptr);
    CHECK(got == text);
}

// The hello server: where requests end, what is refused, and that cuts make no difference.
#include "hello_replies.h"
#include "peer.h"
#include "test.h"
#include "tools/hello.h"
#include "virtual_time.h"

#include <memory>
#include <random>
#include <set>
#include <sys/ioctl.h>

using namespace copse;
using namespace copse::literals;
using namespace std::string_literals;
using test::Connected;
using test::Reply;
using test::VirtualTime;

namespace {

constexpr time_t some_day = 784111777;  // the one in RFC 9110: Sun, 06 Nov 1994 08:49:37 GMT

constexpr time_t other_day = 2002482604;

const HelloOptions frozen{.wall_clock = [] { return timespec{some_day, 0}; }};

struct Talk {
    std::string replies;
    bool kept = false;  // the connection is open after all that
    bool operator==(const Talk&) const = default;
};

size_t unread(int fd) {
    int count = 0;
    return ioctl(fd, FIONREAD, &count) < 0 ? 0 : size_t(count);
}

// In a thread: lets everybody run until the server has read all there is and has answered it.
void settle(int fd) {
    for (int i = 0; i < 100000 && unread(fd); ++i) (void)yield();
    for (int i = 0; i < 4; ++i) (void)yield();
}

// In a thread: what a fresh connection answers to these bytes, cut so. No time passes.
Talk talk_now(Hello& hello, std::string_view bytes, const std::vector<size_t>& cuts) {
    Talk talk;
    Connected both;
    test::Peer& peer = both.peer;
    int mine = both.stream.getfd();
    Result<Thread> handler = addthread([&hello, stream = std::move(both.stream)]() mutable {
        hello.serve(stream);
        (void)stream.close();
    });
    size_t from = 0;
    auto send_to = [&](size_t to) {
        while (from < to && !peer.ended) {
            from += peer.send(bytes.substr(from, to - from));
            settle(mine);
            talk.replies += peer.receive();
        }
    };
    for (size_t cut : cuts) send_to(cut);
    send_to(bytes.size());
    settle(mine);
    talk.replies += peer.receive();
    talk.kept = !peer.ended;
    peer.end();
    (void)handler->join();
    talk.replies += peer.receive();
    return talk;
}

Talk talk(std::string_view bytes, const std::vector<size_t>& cuts = {}) {
    Hello hello{frozen};
    Talk result;
    REQUIRE(!loop([&] { result = talk_now(hello, bytes, cuts); }));
    return result;
}

// "200 404 400." and the like: the statuses; a point: the connection is closed, and the last reply
// says so. HEAD is told by its number among the replies.
std::string summary(const Talk& talk, size_t head = SIZE_MAX) {
    std::string text;
    std::string_view rest = talk.replies;
    bool said = false;
    for (size_t number = 0; !rest.empty(); ++number) {
        Reply reply;
        bool wrong = false;
        if (!test::read_reply(rest, number == head, reply, wrong)) 
            return text + " and what is no reply";
        if (!text.empty()) text += ' ';
        text += std::to_string(reply.status);
        rest.remove_prefix(reply.size);
        said = reply.close;
    }
    if (said == talk.kept) text += " and says the opposite";
    return text + (talk.kept ? "" : ".");
}

void check_summary(std::string_view request, std::string expected) {
    std::string found = summary(talk(request));
    if (found == expected) return;
    test::fail(__FILE__, __LINE__, "a reply");
    fprintf(stderr, "%.*s    -> '%s', not '%s'\n",
            int(request.size() < 300 ? request.size() : 300), request.data(), found.c_str(),
            expected.c_str());
}

struct Row {
    std::string request, expected;
};
void check_all(const std::vector<Row>& rows) {
    VirtualTime time;
    for (const Row& row : rows) check_summary(row.request, row.expected);
}

// A request with these fields.
std::string get(const std::string& fields = "") {
    return "GET / HTTP/1.1\r\nHost: x\r\n" + fields + "\r\n";
}
std::string line(const std::string& request_line) { return request_line + "\r\nHost: x\r\n\r\n"; }
std::string chunked(const std::string& content) {
    return get("Transfer-Encoding: chunked\r\n") + content;
}

// Requests of every kind, whole and not, and what comes of them.
const std::vector<Row>& dialogues() {
    static const std::vector<Row> rows{
        {get(), "200"},
        {get() + get() + get(), "200 200 200"},
        {"GET /hello?a=b HTTP/1.1\r\nhOST:x\r\nAccept: */*\r\nUser-Agent: a\tb \xe9\r\n\r\n",
         "200"},
        {line("GET /nothing HTTP/1.1") + get("Connection: close\r\n") + get(), "404 200."},
        {"GET / HTTP/1.0\r\n\r\n" + get(), "200."},
        {"GET / HTTP/1.0\r\nConnection: x , Keep-Alive\r\n\r\n" + get(), "200 200"},
        {line("OPTIONS * HTTP/1.1") + line("POST / HTTP/1.1") + line("BREW / HTTP/1.1") + get(),
         "204 405 501 200"},
        {"\r\n\r\n" + get("Content-Length: 5\r\n") + "12345" + "\r\n" + get(), "200 200"},
        {chunked("3\r\nabc\r\n0a;x=\"y\"\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n") + get(),
         "200 200"},
        {get("Expect: 100-continue\r\nContent-Length: 3\r\n") + "abc" + get(), "100 200 200"},
        {get("Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n") + "1\r\na\r\n0\r\n\r\n" +
             get(),
         "100 200 200"},
        {"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n" + get(),
         "405."},
        {get() + "GET / HTTP/1.1\nHost: x\n\n", "200 400."},
        {get() + "GET /" + std::string(300, 'a'), "200"},
        {chunked("3\r\nabcd\r\n"), "400."},
        {get("Content-Length: 99\r\n") + "not all", ""},
        {get("Content-Length: 1048577\r\n") + "x", "413."},
        {get() + "\x16\x03\x01\x02", "200 400."},
        {get("A: b\r\n folded\r\n"), "400."},
    };
    return rows;
}

}  // namespace

// What is answered -------------------------------------------------------------------------------

TEST(a_greeting_is_these_bytes_and_no_others) {
    VirtualTime time;
    const std::string date = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    const std::string kind = "Content-Type: text/plain\r\n";
    const std::string rest = kind + "Content-Length: 13\r\n\r\n";
    CHECK(talk(get()) == Talk{"HTTP/1.1 200 OK\r\n" + date + rest + "hello, world\n", true});
    CHECK(talk(line("HEAD /hello HTTP/1.1")) == Talk{"HTTP/1.1 200 OK\r\n" + date + rest, true});
    CHECK(talk(get("Connection: close\r\n")) ==
          Talk{"HTTP/1.1 200 OK\r\n" + date + "Connection: close\r\n" + rest + "hello, world\n",
               false});
    CHECK(talk("HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n") ==
          Talk{"HTTP/1.1 200 OK\r\n" + date + "Connection: keep-alive\r\n" + rest, true});
    CHECK(talk(line("GET /x HTTP/1.1")) ==
          Talk{"HTTP/1.1 404 Not Found\r\n" + date + kind +
                   "Content-Length: 14\r\n\r\n404 Not Found\n", true});
    CHECK(talk(line("OPTIONS / HTTP/1.1")) ==
          Talk{"HTTP/1.1 204 No Content\r\n" + date + "Allow: GET, HEAD, OPTIONS\r\n\r\n", true});
    CHECK(talk(line("PUT / HTTP/1.1")) ==
          Talk{"HTTP/1.1 405 Method Not Allowed\r\n" + date + "Allow: GET, HEAD, OPTIONS\r\n" +
                   kind + "Content-Length: 23\r\n\r\n405 Method Not Allowed\n", true});
}

TEST(an_answer_to_head_has_no_content_whatever_its_status) {
    VirtualTime time;
    CHECK(summary(talk(line("HEAD / HTTP/1.1") + get()), 0) == "200 200");
    CHECK(summary(talk(line("HEAD /x HTTP/1.1") + get()), 0) == "404 200");
    CHECK(summary(talk("HEAD / HTTP/1.1\r\n\r\n"), 0) == "400.");
    CHECK(summary(talk(line("HEAD / HTTP/1.1") + std::string(9000, 'x')), 0) == "200 414.");
    CHECK(summary(talk(line("HEAD /\x7f HTTP/1.1")), 1) == "400.");  // a line that is none
}

TEST(dialogues_of_every_kind_are_answered_as_they_should_be) { check_all(dialogues()); }

TEST(a_request_line_is_taken_as_it_is_spelt) {
    check_all({
        {line("GET / HTTP/1.2"), "200"},
        {line("GET / HTTP/2.0"), "505."},
        {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505."},
        {line("GET / HTTP/0.9"), "505."},
        {line("GET / HTTP/1.10"), "400."},
        {line("GET / http/1.1"), "400."},
        {line("GET / HTTP/1.1 "), "400."},
        {line("GET  / HTTP/1.1"), "400."},
        {line(" GET / HTTP/1.1"), "400."},
        {line("GET\t/ HTTP/1.1"), "400."},
        {line("GET /"), "400."},
        {line("GET"), "400."},
        {line("get / HTTP/1.1"), "501"},
        {line("G@T / HTTP/1.1"), "400."},
        {line("CONNECT x:80 HTTP/1.1"), "501."},
        {line("GET /a b HTTP/1.1"), "400."},
        {line("GET /\xc3\xa9 HTTP/1.1"), "400."},
        {line("GET /#top HTTP/1.1"), "400."},
        {line("GET hello HTTP/1.1"), "400."},
        {line("GET * HTTP/1.1"), "400."},
        {line("OPTIONS /x HTTP/1.1"), "404"},
        {line("DELETE /x HTTP/1.1"), "404"},
        {"\r\n\r\n\r\n" + get(), "400."},
    });
}

TEST(a_target_may_be_absolute) {
    check_all({
        {line("GET http://example.com/hello?x HTTP/1.1"), "200"},
        {line("GET HTTP://example.com:80 HTTP/1.1"), "200"},
        {line("GET http://example.com?/x HTTP/1.1"), "200"},
        {line("OPTIONS http://example.com HTTP/1.1"), "204"},
        {line("GET http://example.com/x HTTP/1.1"), "404"},
        {line("GET http:///hello HTTP/1.1"), "400."},
        {line("GET http://user@example.com/ HTTP/1.1"), "400."},
        {line("GET https://example.com/ HTTP/1.1"), "400."},
        {"GET http://example.com/ HTTP/1.1\r\n\r\n", "400."},
    });
}

TEST(a_host_is_told_once) {
    check_all({
        {"GET / HTTP/1.1\r\n\r\n", "400."},
        {"GET / HTTP/1.1\r\nHost:\r\n\r\n", "200"},
        {"GET / HTTP/1.1\r\nHost: [::1]:8080 \t\r\n\r\n", "200"},
        {get("Host: x\r\n"), "400."},
        {"GET / HTTP/1.0\r\nHost: x\r\nhost: x\r\n\r\n", "400."},
        {"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "400."},
        {"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "400."},
    });
}

TEST(a_field_has_a_name_a_colon_and_no_control_characters) {
    check_all({
        {get("A:\r\n"), "200"},
        {get("A:\t \t\r\n"), "200"},
        {get("A : b\r\n"), "400."},
        {get("A\r\n"), "400."},
        {get(": b\r\n"), "400."},
        {get(" A: b\r\n"), "400."},
        {get("(A): b\r\n"), "400."},
        {get("A: b\r\n\tc\r\n"), "400."},
        {get("A: b\0c\r\n"s), "400."},
        {get("A: b\rc\r\n"), "400."},
        {get("A: b\nc: d\r\n"), "400."},
        {get("A: b\x7f\r\n"), "400."},
        {get("A: b\r\r\n"), "400."},
        {get("A: b\n"), "400."},
    });
    // Each control character, at each place of a word of eight.
    VirtualTime time;
    for (int c = 0; c < 256; ++c) {
        if (c == '\r') continue;
        bool control = (c < 0x20 && c != '\t') || c == 0x7f;
        for (size_t place = 0; place < 9; ++place) {
            std::string value(place, 'v');
            check_summary(get("A: " + value + char(c) + "v\r\n"), control ? "400." : "200");
        }
    }
}

TEST(a_connection_lives_as_long_as_both_sides_would_have_it) {
    check_all({
        {get("Connection: keep-alive\r\n"), "200"},
        {get("Connection: Close\r\n"), "200."},
        {get("Connection: x,close\r\n"), "200."},
        {get("Connection: keep-alive\r\nConnection: close\r\n"), "200."},
        {get("Connection: closer\r\n"), "200"},
        {get("Connection: ,,\r\n"), "200"},
        {"GET / HTTP/1.0\r\nConnection: close, keep-alive\r\n\r\n", "200."},
        {"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "404"},
    });
}

// Where a request ends ---------------------------------------------------------------------------

TEST(content_is_read_past) {
    check_all({
        {get("Content-Length: 0\r\n") + get(), "200 200"},
        {get("Content-Length: 0005\r\n") + "12345" + get(), "200 200"},
        {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nGE" + get(), "405 200"},
        {get("Content-Length: 1048576\r\n") + std::string(1048576, 'G') + get(), "200 200"},
        {get("Content-Length: 1048577\r\n") + std::string(100, 'G'), "413."},
    });
}

TEST(a_length_that_is_said_twice_or_wrong_is_refused) {
    check_all({
        {get("Content-Length: 5\r\nContent-Length: 5\r\n") + "12345", "400."},
        {get("Content-Length: 5\r\nContent-Length: 6\r\n") + "12345", "400."},
        {get("Content-Length: 5, 5\r\n") + "12345", "400."},
        {get("Content-Length:\r\n"), "400."},
        {get("Content-Length: -1\r\n"), "400."},
        {get("Content-Length: +1\r\n") + "1", "400."},
        {get("Content-Length: 0x1\r\n") + "1", "400."},
        {get("Content-Length: 1 1\r\n") + "1", "400."},
        {get("Content-Length: 18446744073709551615\r\n"), "413."},
        {get("Content-Length: 18446744073709551616\r\n"), "400."},
        {get("Content-Length: 184467440737095516160\r\n"), "400."},
    });
}

TEST(chunks_of_any_size_are_read_past) {
    std::string all;
    for (size_t size = 1; size < 300; size += size < 20 ? 1 : 37) {
        char digits[16];
        snprintf(digits, sizeof digits, size % 2 ? "%zx" : "%06zX", size);
        all += digits;
        if (size % 3 == 0) all += " ;ext=\"q;\"";
        all += "\r\n" + std::string(size, '\n') + "\r\n";
    }
    check_all({
        {chunked("0\r\n\r\n") + get(), "200 200"},
        {chunked(all + "000\r\n\r\n") + get(), "200 200"},
        {chunked(all + "0;last\r\nA: b\r\nContent-Length: 7\r\n\r\n") + get(), "200 200"},
        {chunked("100000\r\n" + std::string(1048576, 'x') + "\r\n0\r\n\r\n") + get(), "200 200"},
        {chunked("100001\r\n"), "413."},
        {chunked("FFFFF\r\n" + std::string(1048575, 'x') + "\r\n2\r\n"), "413."},
        {chunked("fffffffffffffffff\r\n"), "413."},
        {chunked("10000000000000001\r\nx"), "413."},
    });
}

TEST(chunks_that_are_spelt_wrong_are_refused) {
    check_all({
        {chunked("\r\n"), "400."},
        {chunked("g\r\n"), "400."},
        {chunked("0x1\r\na\r\n0\r\n\r\n"), "400."},
        {chunked("-1\r\n"), "400."},
        {chunked(" 1\r\na\r\n0\r\n\r\n"), "400."},
        {chunked("1 \r\na\r\n0\r\n\r\n"), "400."},
        {chunked("1 x\r\na\r\n0\r\n\r\n"), "400."},
        {chunked("1\na\r\n0\r\n\r\n"), "400."},
        {chunked("1;a\nb\r\na\r\n0\r\n\r\n"), "400."},
        {chunked("1\r\na\n0\r\n\r\n"), "400."},
        {chunked("1\r\nab0\r\n\r\n"), "400."},
        {chunked("1\r\na\r0\r\n\r\n"), "400."},
        {chunked("1\r\na\rX0\r\n\r\n"), "400."},
        {chunked("1\r\naX\n0\r\n\r\n"), "400."},
        {chunked("0\r\nA b\r\n\r\n"), "400."},
        {chunked("0\r\n A: b\r\n\r\n"), "400."},
    });
}

TEST(what_could_be_read_in_two_ways_is_refused) {
    const std::string both = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n";
    check_all({
        {get(both) + "0\r\n\r\n" + get(), "400."},
        {get("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n") + "0\r\n\r\n", "400."},
        {"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400."},
        {get("Transfer-Encoding: chunked, chunked\r\n"), "400."},
        {get("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), "400."},
        {get("Transfer-Encoding: chunked, gzip\r\n"), "400."},
        {get("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"), "400."},
        {get("Transfer-Encoding: gzip, chunked\r\n"), "501."},
        {get("Transfer-Encoding: gzip\r\n"), "501."},
        {get("Transfer-Encoding: identity\r\n"), "501."},
        {get("Transfer-Encoding: xchunked\r\n"), "501."},
        {get("Transfer-Encoding: \"chunked\"\r\n"), "501."},
        {get("Transfer-Encoding: chunked;a=b\r\n"), "501."},
        {get("Transfer-Encoding:\r\n"), "400."},
        {get("Transfer-Encoding: ,chunked\r\n"), "400."},
        {get("Transfer-Encoding: \x0b" "chunked\r\n"), "400."},
        {get("Transfer-Encoding : chunked\r\n"), "400."},
        {get("Transfer-Encoding\t: chunked\r\n"), "400."},
        {get(" Transfer-Encoding: chunked\r\n"), "400."},
        {get("X: y\nTransfer-Encoding: chunked\r\n"), "400."},
        {get("X: y\rTransfer-Encoding: chunked\r\n"), "400."},
        {get("Transfer-Encoding:\tCHUNKED \t\r\n") + "0\r\n\r\n" + get(), "200 200"},
        {get("Content-Length\0: 5\r\n"s), "400."},
        {get("Content-Length: 5\0\r\n"s), "400."},
    });
}

TEST(an_expectation_is_met_or_refused) {
    const std::string expects = "Expect: 100-Continue\r\n";
    check_all({
        {get(expects) + get(), "200 200"},  // no content is announced: there is nothing to wait for
        {get(expects + "Content-Length: 0\r\n") + get(), "200 200"},
        {get(expects + "Content-Length: 3\r\n"), "100"},
        {get(expects + "Content-Length: 1048577\r\n"), "413."},
        {get("Expect: 200-ok\r\n"), "417."},
        {get("Expect: 100-continue, more\r\nContent-Length: 3\r\n"), "417."},
        {"GET / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc", "200."},
        {"GET / HTTP/1.0\r\nExpect: all\r\n\r\n", "200."},
        {"GET /x HTTP/1.1\r\nHost: x\r\n" + expects + "Content-Length: 3\r\n\r\n", "404."},
        {"OPTIONS * HTTP/1.1\r\nHost: x\r\n" + expects + "Content-Length: 1\r\n\r\na", "100 204"},
    });
}

TEST(each_limit_holds_and_one_more_is_refused) {
    auto padded = [](const std::string& before, size_t size, const std::string& after) {
        return before + std::string(size - before.size() - after.size(), 'a') + after;
    };
    auto request_line = [&](size_t size) { return line(padded("GET /?", size, " HTTP/1.1")); };
    auto field = [&](size_t size) { return padded("A: ", size, "") + "\r\n"; };
    auto fields = [](size_t count) {
        std::string all;
        while (count--) all += "A: b\r\n";
        return all;
    };
    size_t host = strlen("Host: x\r\n"), half = http::head_limit / 2;
    std::string chunk_line = padded("1;", http::extension_limit, "");
    check_all({
        {request_line(http::line_limit), "200"},
        {request_line(http::line_limit + 1), "414."},
        {std::string(http::line_limit + 1, 'G'), "414."},
        {std::string(http::line_limit, 'G'), ""},
        {get(field(http::line_limit)), "200"},
        {get(field(http::line_limit + 1)), "431."},
        {get(fields(http::field_limit - 1)), "200"},
        {get(fields(http::field_limit)), "431."},
        {get(field(half - 2) + field(half - 2 - host)), "200"},
        {get(field(half - 2) + field(half - 1 - host)), "431."},
        {chunked("0\r\n" + fields(http::field_limit - 2) + "\r\n"), "200"},
        {chunked("0\r\n" + fields(http::field_limit - 1) + "\r\n"), "431."},
        {chunked(chunk_line + "\r\na\r\n1;\r\na\r\n0\r\n\r\n"), "200"},
        {chunked(chunk_line + "\r\na\r\n1;a\r\na\r\n0\r\n\r\n"), "400."},
        {chunked(chunk_line + "a\r\na\r\n0\r\n\r\n"), "400."},
    });
}

// Cuts -------------------------------------------------------------------------------------------

TEST(a_cut_at_any_byte_makes_no_difference) {
    VirtualTime time;
    for (const Row& row : dialogues()) {
        Talk whole = talk(row.request);
        for (size_t cut = 1; cut < row.request.size(); ++cut)
            if (!(talk(row.request, {cut}) == whole))
                test::fail(__FILE__, __LINE__, row.request.c_str());
    }
}

TEST(byte_by_byte_is_answered_as_at_once) {
    VirtualTime time;
    for (const Row& row : dialogues()) {
        std::vector<size_t> cuts;
        for (size_t cut = 1; cut < row.request.size(); ++cut) cuts.push_back(cut);
        if (!(talk(row.request, cuts) == talk(row.request)))
            test::fail(__FILE__, __LINE__, row.request.c_str());
    }
}

TEST(pipelined_requests_are_answered_as_one_by_one) {
    VirtualTime time;
    std::mt19937 random{1};
    std::vector<std::string> requests{
        get(), line("HEAD / HTTP/1.1"), line("GET /x HTTP/1.1"), line("PUT / HTTP/1.1"),
        get("Content-Length: 4\r\n") + "GET ", chunked("2\r\n\r\n\r\n0\r\n\r\n"), "\r\n" + get(),
        "GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", line("BREW / HTTP/1.1")};
    std::vector<std::string> answers;
    for (const std::string& request : requests) answers.push_back(talk(request).replies);
    for (int round = 0; round < 50; ++round) {
        std::string all, expected;
        for (int i = 0; i < 100; ++i) {
            size_t which = random() % requests.size();
            all += requests[which];
            expected += answers[which];
        }
        CHECK(talk(all) == Talk{expected, true});
        CHECK(talk(all, {random() % all.size()}) == Talk{expected, true});
    }
}

// Damaged requests: whatever they are taken for, the answers are answers, and cuts do not matter.
TEST(requests_with_random_damage_are_answered_or_refused_however_cut) {
    VirtualTime time;
    std::mt19937 random{20};
    const std::string_view spice = "\r\n \t:;,/*?#0123456789abcdefGET\x01\x7f\x80";
    const std::string words[] = {
        "\r\n", "\r\n\r\n", "Content-Length: ", "Transfer-Encoding: chunked\r\n", "HTTP/1.1",
        "HTTP/1.0", "Host: x\r\n", "Expect: 100-continue\r\n", "Connection: close\r\n", "0\r\n\r\n"};
    size_t kept = 0, closed = 0, answered = 0;
    for (int round = 0; round < 3000; ++round) {
        std::string text = dialogues()[random() % dialogues().size()].request;
        if (random() % 2) text += dialogues()[random() % dialogues().size()].request;
        for (unsigned damage = random() % 3; damage--;) {
            size_t at = random() % text.size();
            switch (random() % 5) {
            case 0: text[at] = spice[random() % spice.size()]; break;
            case 1: text[at] = char(random()); break;
            case 2: text.erase(at, 1 + random() % 3); break;
            case 3: text.insert(at, words[random() % std::size(words)]); break;
            case 4: text.insert(at, text.substr(random() % text.size(), random() % 40)); break;
            }
            if (text.empty()) text.push_back('G');
        }
        Talk whole = talk(text);
        std::vector<size_t> cuts;
        for (size_t at = 0; (at += 1 + random() % (1 + text.size() / 3)) < text.size();)
            cuts.push_back(at);
        Talk cut = talk(text, cuts);
        if (!(whole == cut)) test::fail(__FILE__, __LINE__, text.c_str());
        std::string found = summary(whole);
        // Where a HEAD came to be nobody knows: such talks are only compared.
        if (text.find("HEAD") == text.npos && (found.find("no reply") != found.npos ||
                                               found.find("opposite") != found.npos))
            test::fail(__FILE__, __LINE__, text.c_str());
        ++(whole.kept ? kept : closed);
        answered += !whole.replies.empty();
    }
    CHECK(kept > 300);
    CHECK(closed > 300);
    CHECK(answered > 1500);
}

// Time -------------------------------------------------------------------------------------------

namespace {

// Runs a client against a server of these options, with an hour for everything.
template <class Client> void meet(const HelloOptions& options, Client&& client) {
    Hello hello{options};
    REQUIRE(!loop([&] {
        Connected both;
        Result<Thread> handler = addthread([&hello, stream = std::move(both.stream)]() mutable {
            hello.serve(stream);
            (void)stream.close();
        });
        client(both.peer);
        both.peer.close();
        (void)handler->join();
    }));
}

constexpr size_t greeting_size = 115;

int64_t seconds_since(Time begin) { return (now() - begin).count() / 1'000'000'000; }

// What came until the end, and after how many seconds.
std::pair<std::string, int64_t> wait_for_end(test::Peer& peer, Time begin) {
    Talk talk{peer.receive_to_end(), false};
    return {talk.replies.empty() ? "" : summary(talk), seconds_since(begin)};
}

}  // namespace

TEST(a_silent_connection_is_closed_without_a_word) {
    VirtualTime time;
    meet(frozen, [](test::Peer& peer) {
        Time begin = now();
        CHECK((wait_for_end(peer, begin) == std::pair{""s, int64_t{60}}));
    });
}

TEST(idle_time_begins_anew_with_each_request) {
    VirtualTime time;
    meet(frozen, [](test::Peer& peer) {
        for (int i = 0; i < 5; ++i) {
            (void)peer.send(get());
            (void)sleep_for(59_s);
            CHECK(!peer.receive().empty());
            CHECK(!peer.ended);
        }
        CHECK((wait_for_end(peer, now()) == std::pair{""s, int64_t{1}}));
    });
}

TEST(a_request_that_drips_is_given_up_in_time) {
    VirtualTime time;
    for (const std::string& begun : {"G"s, "\r"s, "GET / HTTP/1.1\r\n"s,
                                     get("Content-Length: 1000\r\n"), chunked("ffff\r\n")}) {
        meet(frozen, [&](test::Peer& peer) {
            Time begin = now();
            (void)peer.send(begun);
            Result<Thread> dripping = addthread([&] {
                std::string_view rest = begun == "\r" ? "\nGET / HTTP/1.1" : "a: bcdefghijklmn";
                for (char c : rest) {
                    if (sleep_for(1_s)) return;
                    (void)peer.send({&c, 1});
                }
            });
            auto end = wait_for_end(peer, begin);
            CHECK(end.first == "408.");
            // An empty line is no request; the one after it began a second later.
            CHECK_EQ(end.second, begun == "\r" ? 12 : 10);
            (void)dripping->cancel();
            (void)dripping->join();
        });
    }
}

TEST(each_pipelined_request_has_its_own_time) {
    VirtualTime time;
    meet(frozen, [](test::Peer& peer) {
        Time begin = now();
        std::string all = get();
        for (int i = 0; i < 4; ++i) {  // each piece ends one request and begins another
            (void)peer.send(i ? all.substr(5) + all.substr(0, 5) : all.substr(0, 5));
            (void)sleep_for(8_s);
        }
        auto end = wait_for_end(peer, begin);
        CHECK(end.first == "200 200 200 408.");
        CHECK_EQ(end.second, 34);
    });
}

TEST(a_deadline_is_not_drawn_out_by_content_or_an_expectation) {
    VirtualTime time;
    meet(frozen, [](test::Peer& peer) {
        Time begin = now();
        (void)peer.send(get("Expect: 100-continue\r\nContent-Length: 9\r\n"));
        (void)sleep_for(6_s);
        (void)peer.send("12345678");
        auto end = wait_for_end(peer, begin);
        CHECK(end.first == "100 408.");
        CHECK_EQ(end.second, 10);
    });
}

TEST(requests_that_come_whole_cost_one_look_at_the_clock_a_batch) {
    VirtualTime time;
    meet(frozen, [&](test::Peer& peer) {
        auto questions = [&](int requests) {
            std::string all;
            for (int i = 0; i < requests; ++i) all += get();
            (void)yield();
            size_t before = time.questions;
            (void)peer.send(all);
            (void)peer.receive_exactly(size_t(requests) * greeting_size);
            return time.questions - before;
        };
        CHECK_EQ(questions(1), questions(100));
    });
}

TEST(a_batch_costs_one_receive_one_send_and_no_allocation) {
    static size_t receives, sends;
    VirtualTime time;
    time.receive = [](const System& system, auto... what) {
        ++receives;
        return production_system.receive(system, what...);
    };
    time.send = [](const System& system, auto... what) {
        ++sends;
        return production_system.send(system, what...);
    };
    meet(frozen, [](test::Peer& peer) {
        std::string all;
        for (int i = 0; i < 16; ++i) all += get();
        size_t before = 0;
        for (int round = 0; round < 5; ++round) {
            if (round == 1) {  // the first has brought the buffers
                receives = sends = 0;
                before = status().allocations;
            }
            (void)peer.send(all);
            CHECK_EQ(peer.receive_exactly(16 * greeting_size).size(), 16 * greeting_size);
        }
        CHECK_EQ(receives, 4u);
        CHECK_EQ(sends, 4u);
        CHECK_EQ(status().allocations, before);
    });
}

TEST(the_date_is_the_second_it_is_asked_in) {
    static VirtualTime* clock;
    VirtualTime time;
    clock = &time;
    HelloOptions options{.wall_clock = [] {
        // The wall's seconds begin where the loop's are 0.4 s old.
        int64_t ns = clock->time + 600'000'000;
        return timespec{some_day + ns / 1'000'000'000 - 1000, long(ns % 1'000'000'000)};
    }};
    meet(options, [](test::Peer& peer) {
        auto second = [&] {
            (void)peer.send(get());
            Reply reply;
            bool wrong = false;
            REQUIRE(test::read_reply(peer.receive_exactly(greeting_size), false, reply, wrong));
            CHECK(reply.date.substr(0, 20) == "Sun, 06 Nov 1994 08:");
            return reply.date.substr(20, 5);
        };
        CHECK(second() == "49:37");
        (void)sleep_for(399_ms);
        CHECK(second() == "49:37");
        (void)sleep_for(1_ms);
        CHECK(second() == "49:38");
        (void)sleep_for(999_ms);
        CHECK(second() == "49:38");
        (void)sleep_for(22_s);
        CHECK(second() == "50:00");
    });
}

// The greeting that a slow reader's send() has parked with must not change under it.
TEST(a_reply_to_a_slow_reader_is_of_one_second) {
    static VirtualTime* clock;
    VirtualTime time;
    clock = &time;
    // Every other second is of another day, and year: no byte that can be is the same.
    HelloOptions options{.wall_clock = [] {
        return timespec{clock->time / 1'000'000'000 % 2 ? some_day : other_day,
                        long(clock->time % 1'000'000'000)};
    }};
    Hello hello{options};
    REQUIRE(!loop([&] {
        Connected slow{test::Kind::tcp, 4608}, other{test::Kind::unix_pair};
        for (Connected* each : {&slow, &other})
            REQUIRE(addthread([&hello, stream = std::move(each->stream)]() mutable {
                hello.serve(stream);
            }));
        constexpr size_t count = 2000;
        std::string all, back;
        std::set<std::string> days;
        for (size_t i = 0; i < count; ++i) all += get();
        size_t sent = 0;
        for (int idle = 0; idle < 50; ++idle) {
            size_t some = slow.peer.send(std::string_view{all}.substr(sent));
            sent += some;
            std::string got = slow.peer.receive(100);  // a piece that ends anywhere
            back += got;
            if (some || !got.empty()) idle = 0;
            (void)sleep_for(100_ms);
            (void)other.peer.send(get());  // so that the date is written anew
            (void)yield();
        }
        size_t replies = 0;
        for (std::string_view rest = back; !rest.empty(); ++replies) {
            Reply reply;
            bool wrong = false;
            if (!test::read_reply(rest, false, reply, wrong)) break;
            CHECK(reply.date == "Sun, 06 Nov 1994 08:49:37 GMT" ||
                  reply.date == "Wed, 15 Jun 2033 21:10:04 GMT");
            days.insert(reply.date);
            rest.remove_prefix(reply.size);
        }
        CHECK_EQ(replies, count);
        CHECK_EQ(days.size(), 2u);
    }));
}

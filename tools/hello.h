// Hello: an HTTP/1.1 server that greets: GET and HEAD of / and of /hello, and an honest answer to
// everything else.
//
// http.h finds the requests. All that came in one piece are answered in one go, from the view that
// receivepartial() gave; the stream gathers the answers, and at the end of the turn one system call
// writes them. What is left, less than a line, is handed back as the prefix of the next call: it
// lies in the stream's own buffer, where it stays. So a request costs neither a copy nor an
// allocation, and while there is none its connection has no buffer.
//
// An answer tells the date, which is written once a second. The whole greeting is kept with it.
//
// Invariants:
//  - Answers come in the order of the requests, one to each that is whole or refused.
//  - A connection from which a refused request came is closed, and says so.
//  - Who has begun a request has `request` to finish it; then the connection ends. Nothing is
//    timed while requests come whole.
#pragma once

#include "http.h"

#include <copse/copse.h>

#include <stdio.h>
#include <time.h>

struct HelloOptions {
    copse::Duration idle = copse::Duration::seconds(60);     // between requests; and for a reader
    copse::Duration request = copse::Duration::seconds(10);  // for one to come, content and all
    timespec (*wall_clock)() = [] {
        timespec now{};
        clock_gettime(CLOCK_REALTIME, &now);
        return now;
    };
};

class Hello {
  public:
    explicit Hello(const HelloOptions& options = {}) : options_{options} {}
    Hello(const Hello&) = delete;
    Hello& operator=(const Hello&) = delete;

    // The handler of a connection: returns when that is to be closed.
    void serve(copse::Stream& stream) {
        stream.settimeouts(copse::never, options_.idle, options_.idle);
        http::Requests requests{route};
        std::string_view bytes;  // and at the end of each round, what is less than a line
        Deadline deadline;
        do {
            size_t kept = bytes.size();
            bool begun = requests.begun() || kept;
            if (!begun) deadline = {};  // of an empty line, perhaps
            copse::Result<std::string_view> got =
                begun ? receive_rest(stream, bytes, deadline, requests.count())
                      : stream.receivepartial(at_most);
            bytes = *got;
            if (bytes.size() == kept) {  // then it is an error that came
                if (begun && got.error == copse::Error::timeout)
                    refuse(stream, greeting_now(), requests, http::Status::request_timeout);
                return;
            }
        } while (answer(stream, requests, bytes));
    }

    uint64_t answers() const { return answers_; }
    uint64_t refusals() const { return refusals_; }

  private:
    static constexpr int at_most = 65536;  // bytes at once; more than a line that is not whole
    static_assert(at_most > http::line_limit + 2);
    static constexpr std::string_view body = "hello, world\n";

    enum Resource : uint8_t { nowhere, greeting };
    static uint8_t route(std::string_view path) {
        return path == "/" || path == "/hello" ? greeting : nowhere;
    }

    // The date ---------------------------------------------------------------------------------

    // An answer to GET / with the date of this second in it.
    struct Greeting {
        static constexpr std::string_view before = "HTTP/1.1 200 OK\r\nDate: ";
        static constexpr std::string_view after =
            "\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nhello, world\n";
        static constexpr size_t date_size = 29;
        static_assert(body.size() == 13);

        char text[before.size() + date_size + after.size()];

        std::string_view whole() const { return {text, sizeof text}; }
        std::string_view head() const { return {text, sizeof text - body.size()}; }
        std::string_view date() const { return {text + before.size(), date_size}; }

        void write(time_t now) {
            static constexpr char days[][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
            static constexpr char months[][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                                 "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
            tm at{};
            gmtime_r(&now, &at);
            char date[64];
            snprintf(date, sizeof date, "%s, %02d %s %04d %02d:%02d:%02d GMT", days[at.tm_wday],
                     at.tm_mday, months[at.tm_mon], at.tm_year + 1900, at.tm_hour, at.tm_min,
                     at.tm_sec);
            char* out = text;
            for (std::string_view piece : {before, std::string_view{date, date_size}, after}) {
                memcpy(out, piece.data(), piece.size());
                out += piece.size();
            }
        }
    };

    // By value: whoever parks in send() goes on to send from it in a later second.
    Greeting greeting_now() {
        copse::Time now = copse::now();
        if (now >= next_second_) {
            timespec wall = options_.wall_clock();
            greeting_.write(wall.tv_sec);
            next_second_ = now + copse::Duration::nanoseconds(1'000'000'000 - wall.tv_nsec);
        }
        return greeting_;
    }

    // Receiving --------------------------------------------------------------------------------

    // Until when the request of that number is to be there.
    struct Deadline {
        uint64_t number = UINT64_MAX;
        copse::Time at;
    };
    copse::Result<std::string_view> receive_rest(copse::Stream& stream, std::string_view rest,
                                                 Deadline& deadline, uint64_t number) {
        copse::Time now = copse::now();
        if (deadline.number != number) deadline = {number, now + options_.request};
        copse::Timeout scope{deadline.at - now};
        return stream.receivepartial(at_most, rest);
    }

    // Answering --------------------------------------------------------------------------------

    // Answers what is whole, and leaves the rest. false: that was the connection's last answer.
    [[gnu::noinline]] bool answer(copse::Stream& stream, http::Requests& requests,
                                  std::string_view& bytes) {
        using Found = http::Requests::Found;
        Greeting now = greeting_now();
        for (;;) {
            switch (requests.read(bytes)) {
            case Found::nothing: return true;
            case Found::request:
                if (!answer_one(stream, now, requests.request())) return false;
                break;
            case Found::waiting:
                if (!answer_waiting(stream, now, requests.request())) return false;
                break;
            case Found::refusal:
                refuse(stream, now, requests, requests.status());
                return false;
            }
        }
    }

    bool answer_one(copse::Stream& stream, const Greeting& now, const http::Request& request) {
        ++answers_;
        http::Status status = status_of(request);
        if (status == http::Status::ok && request.keep_alive && !request.old) {
            bool head = request.method == http::Method::head;
            return bool(stream.send(head ? now.head() : now.whole()));
        }
        Answer answer{.status = status,
                      .head = request.method == http::Method::head,
                      .close = !request.keep_alive,
                      .keep_alive = request.keep_alive && request.old};
        return send(stream, now, answer) && request.keep_alive;
    }

    // Who would not be greeted need not send the content, and so nobody knows whether it comes.
    bool answer_waiting(copse::Stream& stream, const Greeting& now, const http::Request& request) {
        http::Status status = status_of(request);
        if (status == http::Status::ok || status == http::Status::no_content)
            return bool(stream.send("HTTP/1.1 100 Continue\r\n\r\n"));
        ++answers_;
        (void)send(stream, now, {.status = status,
                                 .head = request.method == http::Method::head,
                                 .close = true});
        return false;
    }

    void refuse(copse::Stream& stream, const Greeting& now, const http::Requests& requests,
                http::Status status) {
        ++refusals_;
        bool head = requests.begun() && requests.request().method == http::Method::head;
        (void)send(stream, now, {.status = status, .head = head, .close = true});
    }

    static http::Status status_of(const http::Request& request) {
        using http::Method;
        using http::Status;
        if (request.method == Method::unknown) return Status::not_implemented;
        if (request.asterisk) return Status::no_content;
        if (request.resource == nowhere) return Status::not_found;
        if (request.method == Method::options) return Status::no_content;
        bool reads = request.method == Method::get || request.method == Method::head;
        return reads ? Status::ok : Status::method_not_allowed;
    }

    struct Answer {
        http::Status status;
        bool head = false;        // the content is told of and left out
        bool close = false;       // the connection is
        bool keep_alive = false;  // said to a client that would not expect it
    };

    // Any answer. What is no greeting has its own status for content.
    static bool send(copse::Stream& stream, const Greeting& now, const Answer& answer) {
        using http::Status;
        std::string_view status = http::status_text(answer.status);
        bool greets = answer.status == Status::ok, empty = answer.status == Status::no_content;
        size_t size = greets ? body.size() : status.size() + 1;  // two digits, in any case
        char digits[] = {char('0' + size / 10), char('0' + size % 10)};
        bool allows = empty || answer.status == Status::method_not_allowed;
        std::string_view none;
        std::string_view pieces[] = {
            "HTTP/1.1 ", status, "\r\nDate: ", now.date(),
            allows ? "\r\nAllow: GET, HEAD, OPTIONS" : none,
            answer.close ? "\r\nConnection: close" : none,
            answer.keep_alive ? "\r\nConnection: keep-alive" : none,
            empty ? none : "\r\nContent-Type: text/plain\r\nContent-Length: ",
            empty ? none : std::string_view{digits, sizeof digits},
            "\r\n\r\n",
            empty || answer.head ? none : greets ? body : status,
            empty || answer.head || greets ? none : "\n",
        };
        return bool(stream.send(pieces));
    }

    HelloOptions options_;
    Greeting greeting_{};
    copse::Time next_second_;
    uint64_t answers_ = 0, refusals_ = 0;
};

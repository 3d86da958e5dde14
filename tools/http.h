// http: where each request of a connection begins and ends (RFC 9112), and what of it an answer
// depends on (RFC 9110).
//
// Requests is fed what has come and goes through it line by line, in place. A line that is whole
// leaves its meaning behind in a few flags, and no byte is needed twice: what the caller has to keep
// until more comes is less than one line, and nothing while the content of a request goes by.
//
// Two programs that read the same bytes and find different requests in them can be played off
// against each other: that is request smuggling. So what could be read in two ways is refused, also
// where the RFC lets a server be lenient: a line ends in CR LF and nothing else, no line is folded,
// a length is said once and in one way. After a refusal nobody knows where the next request begins,
// and the connection has to end.
//
// Invariants:
//  - What is found depends on the bytes alone, not on how they were cut: a line is judged when it is
//    whole, or at the first byte that no line may have or that is one too many.
//  - Nothing a peer says commits memory; only a line that is not whole is ever waited for.
#pragma once

#include <stdint.h>
#include <string.h>
#include <string_view>

namespace http {

// Beyond these a request is refused.
inline constexpr size_t line_limit = 8192;         // bytes of the request line, or of a field's
inline constexpr size_t head_limit = 16384;        // bytes of all fields
inline constexpr unsigned field_limit = 100;       // fields
inline constexpr size_t content_limit = 1 << 20;   // bytes of content, which is read past
inline constexpr size_t extension_limit = 1024;    // bytes of a request's chunk extensions
inline constexpr unsigned empty_line_limit = 2;    // in front of a request

enum class Status : uint16_t {
    none = 0,
    ok = 200,
    no_content = 204,
    bad_request = 400,
    not_found = 404,
    method_not_allowed = 405,
    request_timeout = 408,
    content_too_large = 413,
    uri_too_long = 414,
    expectation_failed = 417,
    fields_too_large = 431,
    not_implemented = 501,
    version_not_supported = 505,
};

inline std::string_view status_text(Status status) {
    switch (status) {
    case Status::none: break;
    case Status::ok: return "200 OK";
    case Status::no_content: return "204 No Content";
    case Status::bad_request: return "400 Bad Request";
    case Status::not_found: return "404 Not Found";
    case Status::method_not_allowed: return "405 Method Not Allowed";
    case Status::request_timeout: return "408 Request Timeout";
    case Status::content_too_large: return "413 Content Too Large";
    case Status::uri_too_long: return "414 URI Too Long";
    case Status::expectation_failed: return "417 Expectation Failed";
    case Status::fields_too_large: return "431 Request Header Fields Too Large";
    case Status::not_implemented: return "501 Not Implemented";
    case Status::version_not_supported: return "505 HTTP Version Not Supported";
    }
    return "500 Internal Server Error";
}

enum class Method : uint8_t {
    get,
    head,
    options,
    other,    // one that this server knows of: POST, PUT, DELETE, TRACE, PATCH
    connect,
    unknown,
};

namespace detail {

// Kinds of characters, a bit each.
enum : uint8_t { token = 1, host = 2, target = 4 };

struct Characters {
    uint8_t kinds[256] = {};
    constexpr Characters() {
        for (int c = '!'; c <= '~'; ++c)
            if (c != '#') kinds[c] |= target;  // a fragment is never sent
        auto add = [this](std::string_view which, uint8_t kind) {
            for (char c : which) kinds[uint8_t(c)] |= kind;
        };
        add("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", token | host);
        add("!#$%&'*+-.^_`|~", token);
        add("-._~!$&'()*+,;=%:[]", host);
    }
};
inline constexpr Characters characters;

inline bool is(char c, uint8_t kind) { return characters.kinds[uint8_t(c)] & kind; }
inline bool all_are(std::string_view text, uint8_t kind) {
    unsigned common = kind;
    for (char c : text) common &= characters.kinds[uint8_t(c)];
    return common;
}
inline size_t token_length(std::string_view text) {
    size_t size = 0;
    while (size < text.size() && is(text[size], token)) ++size;
    return size;
}

// Unlike substr() these cannot fail, and need no exceptions.
inline std::string_view first(std::string_view text, size_t size) { return {text.data(), size}; }
inline std::string_view after(std::string_view text, size_t size) {
    return {text.data() + size, text.size() - size};
}

inline bool is_blank(char c) { return c == ' ' || c == '\t'; }
inline std::string_view trim(std::string_view text) {
    while (!text.empty() && is_blank(text.front())) text.remove_prefix(1);
    while (!text.empty() && is_blank(text.back())) text.remove_suffix(1);
    return text;
}

// Whether they are the same but for case. `lower` is made of letters, digits, '-', ':' and '/'; the
// bit set here makes no other character of a line into one of these.
inline bool same(std::string_view text, std::string_view lower) {
    if (text.size() != lower.size()) return false;
    for (size_t i = 0; i < text.size(); ++i)
        if (char(text[i] | 0x20) != lower[i]) return false;
    return true;
}

// The first control character but HTAB: what ends a line, and what none may have. Eight bytes at a
// time: a byte b is below 0x20 if b - 0x20 borrows and b has no high bit; it is DEL if b ^ 0x7f is 0.
// A borrow may make the byte above a find look like one as well: the lowest of a word is a true one.
inline const char* find_control(const char* from, const char* end) {
    constexpr uint64_t ones = 0x0101010101010101, highs = 0x80 * ones;
    constexpr bool lowest_is_first = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;
    while (lowest_is_first && end - from >= 8) {
        uint64_t word = 0;
        memcpy(&word, from, 8);
        uint64_t del = word ^ 0x7f * ones;
        uint64_t found = (((word - 0x20 * ones) & ~word) | ((del - ones) & ~del)) & highs;
        if (!found) {
            from += 8;
            continue;
        }
        from += __builtin_ctzll(found) / 8;
        if (*from != '\t') return from;
        ++from;
    }
    while (from < end && ((uint8_t(*from) >= 0x20 && *from != 0x7f) || *from == '\t')) ++from;
    return from;
}

}  // namespace detail

// What is known of a request once it is whole.
struct Request {
    Method method = Method::unknown;
    bool asterisk = false;   // the target is the server as such
    bool old = false;        // HTTP/1.0
    bool keep_alive = true;  // the client would go on
    uint8_t resource = 0;    // what the router said of its path
};

class Requests {
  public:
    // Asked for each target's path, query left out. The view does not outlive the call.
    using Router = uint8_t (*)(std::string_view path);
    explicit Requests(Router router) : router_{router} {}

    enum class Found : uint8_t {
        nothing,  // more must come; what is left of the bytes belongs in front of it
        waiting,  // a head: its sender waits for 100 (Continue), or for an answer, before he goes on
        request,  // a whole request
        refusal,  // the end: see status()
    };

    // Takes bytes away from the front until something is found.
    Found read(std::string_view& bytes) {
        for (;;) {
            switch (state_) {
            case State::request_line:
            case State::fields:
            case State::chunk_line:
            case State::trailers: {
                std::string_view line;
                if (!take_line(bytes, line)) return refusal_ == Status::none ? Found::nothing
                                                                             : Found::refusal;
                refusal_ = judge(line);
                if (refusal_ != Status::none) return Found::refusal;
                if (state_ == State::complete) return complete();
                if (waiting_) {
                    waiting_ = false;
                    return Found::waiting;
                }
                break;
            }
            case State::content:
            case State::chunk: {
                size_t size = bytes.size() < left_ ? bytes.size() : left_;
                bytes.remove_prefix(size);
                left_ -= size;
                if (left_) return Found::nothing;
                if (state_ == State::content) return complete();
                state_ = State::chunk_end;
                break;
            }
            case State::chunk_end:
                if ((bytes.size() > 0 && bytes[0] != '\r') ||
                    (bytes.size() > 1 && bytes[1] != '\n')) {
                    refusal_ = Status::bad_request;
                    return Found::refusal;
                }
                if (bytes.size() < 2) return Found::nothing;
                bytes.remove_prefix(2);
                state_ = State::chunk_line;
                break;
            case State::complete: break;  // is left at once
            }
        }
    }

    const Request& request() const { return request_; }
    Status status() const { return refusal_; }
    // So many were whole; and whether one is begun that is not, but for bytes that read() left.
    uint64_t count() const { return count_; }
    bool begun() const { return state_ != State::request_line; }

  private:
    enum class State : uint8_t {
        request_line,
        fields,
        content,     // left_ bytes of it
        chunk_line,
        chunk,       // left_ bytes of it
        chunk_end,
        trailers,
        complete,
    };

    Found complete() {
        state_ = State::request_line;
        empty_lines_ = 0;
        ++count_;
        return Found::request;
    }

    // Lines --------------------------------------------------------------------------------------

    // A line without its end; false: there is no whole one, or refusal_ says why there never will
    // be.
    bool take_line(std::string_view& bytes, std::string_view& line) {
        size_t limit = state_ == State::chunk_line ? extension_limit : line_limit;
        size_t looked_at = bytes.size() <= limit ? bytes.size() : limit + 1;
        const char* end = detail::find_control(bytes.data(), bytes.data() + looked_at);
        size_t size = size_t(end - bytes.data());
        if (size > limit) return refuse_long_line();
        if (size == bytes.size()) return false;
        if (*end != '\r') return refuse(Status::bad_request);
        if (size + 1 == bytes.size()) return false;
        if (end[1] != '\n') return refuse(Status::bad_request);
        line = {bytes.data(), size};
        bytes.remove_prefix(size + 2);
        return true;
    }
    bool refuse(Status status) {
        refusal_ = status;
        return false;
    }
    bool refuse_long_line() {
        return refuse(state_ == State::request_line ? Status::uri_too_long
                      : state_ == State::chunk_line ? Status::bad_request
                                                    : Status::fields_too_large);
    }

    Status judge(std::string_view line) {
        if (state_ == State::request_line) {
            // Some clients send an empty line behind a request's content.
            if (line.empty())
                return ++empty_lines_ <= empty_line_limit ? Status::none : Status::bad_request;
            begin();
            return judge_request_line(line);
        }
        if (state_ == State::chunk_line) return judge_chunk_line(line);
        if (line.empty()) {
            if (state_ == State::fields) return judge_head();
            state_ = State::complete;
            return Status::none;
        }
        fields_size_ += line.size() + 2;
        if (++fields_ > field_limit || fields_size_ > head_limit) return Status::fields_too_large;
        return judge_field(line);
    }

    void begin() {
        request_ = {};
        facts_ = {};
        left_ = content_size_ = fields_size_ = extensions_size_ = 0;
        fields_ = 0;
    }

    // The head -----------------------------------------------------------------------------------

    // METHOD SP target SP HTTP/digit.digit
    Status judge_request_line(std::string_view line) {
        size_t size = detail::token_length(line);
        if (size == 0 || size == line.size() || line[size] != ' ') return Status::bad_request;
        request_.method = method(detail::first(line, size));
        state_ = State::fields;
        line = detail::after(line, size + 1);

        size = line.find(' ');
        if (size == line.npos) return Status::bad_request;
        std::string_view target = detail::first(line, size);
        std::string_view version = detail::after(line, size + 1);
        auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
        if (version.size() != 8 || memcmp(version.data(), "HTTP/", 5) != 0 ||
            !is_digit(version[5]) || version[6] != '.' || !is_digit(version[7]))
            return Status::bad_request;
        if (version[5] != '1') return Status::version_not_supported;
        request_.old = version[7] == '0';
        // Its target is a host and a port, and what follows may not be HTTP at all.
        if (request_.method == Method::connect) return Status::not_implemented;
        return judge_target(target);
    }

    static Method method(std::string_view name) {
        switch (name.size()) {
        case 3:
            if (name == "GET") return Method::get;
            if (name == "PUT") return Method::other;
            break;
        case 4:
            if (name == "HEAD") return Method::head;
            if (name == "POST") return Method::other;
            break;
        case 5:
            if (name == "TRACE" || name == "PATCH") return Method::other;
            break;
        case 6:
            if (name == "DELETE") return Method::other;
            break;
        case 7:
            if (name == "OPTIONS") return Method::options;
            if (name == "CONNECT") return Method::connect;
            break;
        }
        return Method::unknown;
    }

    Status judge_target(std::string_view target) {
        if (target == "*") {
            request_.asterisk = true;
            return request_.method == Method::options ? Status::none : Status::bad_request;
        }
        if (target.empty() || !detail::all_are(target, detail::target)) return Status::bad_request;
        if (target[0] != '/') {  // as to a proxy: http://host/path
            constexpr std::string_view scheme = "http://";
            if (target.size() < scheme.size() ||
                !detail::same(detail::first(target, scheme.size()), scheme))
                return Status::bad_request;
            target = detail::after(target, scheme.size());
            size_t size = target.find_first_of("/?");
            if (size == target.npos) size = target.size();
            if (size == 0 || !detail::all_are(detail::first(target, size), detail::host))
                return Status::bad_request;
            target = detail::after(target, size);
            if (target.empty() || target[0] == '?') target = "/";
        }
        size_t query = target.find('?');
        request_.resource = router_(query == target.npos ? target : detail::first(target, query));
        return Status::none;
    }

    // What the fields said; judged together when the head is whole, whatever their order.
    struct Facts {
        bool host : 1 = false;
        bool close : 1 = false;
        bool keep_alive : 1 = false;
        bool sized : 1 = false;           // Content-Length
        bool coded : 1 = false;           // Transfer-Encoding
        bool chunked : 1 = false;         // is its last coding so far
        bool other_coding : 1 = false;
        bool expects_continue : 1 = false;
        bool expects_other : 1 = false;
    };

    Status judge_field(std::string_view line) {
        // Whitespace in front of the name would be a folded line, and in front of the colon it is
        // what smugglers like: no token has any.
        size_t size = detail::token_length(line);
        if (size == 0 || size == line.size() || line[size] != ':') return Status::bad_request;
        if (state_ == State::trailers) return Status::none;  // too late to mean anything
        std::string_view name = detail::first(line, size);
        std::string_view value = detail::trim(detail::after(line, size + 1));
        switch (size) {
        case 4:
            if (detail::same(name, "host")) return judge_host(value);
            break;
        case 6:
            if (detail::same(name, "expect")) return each_of(value, &Requests::expect);
            break;
        case 10:
            if (detail::same(name, "connection")) return each_of(value, &Requests::connection);
            break;
        case 14:
            if (detail::same(name, "content-length")) return judge_length(value);
            break;
        case 17:
            if (detail::same(name, "transfer-encoding")) {
                facts_.coded = true;
                return each_of(value, &Requests::coding);
            }
            break;
        }
        return Status::none;
    }

    Status judge_host(std::string_view value) {
        if (facts_.host || !detail::all_are(value, detail::host)) return Status::bad_request;
        facts_.host = true;
        return Status::none;
    }

    // Said once, and in digits; a list of equal numbers is one of two ways to say it.
    Status judge_length(std::string_view value) {
        if (facts_.sized || value.empty()) return Status::bad_request;
        facts_.sized = true;
        for (char c : value) {
            if (c < '0' || c > '9' || __builtin_mul_overflow(left_, 10, &left_) ||
                __builtin_add_overflow(left_, uint64_t(c - '0'), &left_))
                return Status::bad_request;
        }
        return Status::none;
    }

    // The elements of a list: a, b, c
    Status each_of(std::string_view list, Status (Requests::*judge_one)(std::string_view)) {
        for (;;) {
            size_t size = list.find(',');
            bool last = size == list.npos;
            std::string_view one = last ? list : detail::first(list, size);
            Status status = (this->*judge_one)(detail::trim(one));
            if (status != Status::none || last) return status;
            list = detail::after(list, size + 1);
        }
    }
    Status connection(std::string_view option) {
        if (detail::same(option, "close")) facts_.close = true;
        if (detail::same(option, "keep-alive")) facts_.keep_alive = true;
        return Status::none;
    }
    Status expect(std::string_view expectation) {
        if (detail::same(expectation, "100-continue")) facts_.expects_continue = true;
        else if (!expectation.empty()) facts_.expects_other = true;
        return Status::none;
    }
    Status coding(std::string_view name) {
        // Where chunked is not the last, or is there twice, nobody knows where the content ends.
        if (name.empty() || facts_.chunked) return Status::bad_request;
        if (detail::same(name, "chunked")) facts_.chunked = true;
        else facts_.other_coding = true;
        return Status::none;
    }

    Status judge_head() {
        if (!facts_.host && !request_.old) return Status::bad_request;
        if (facts_.coded && (facts_.sized || request_.old)) return Status::bad_request;
        if (facts_.other_coding) return Status::not_implemented;
        if (facts_.expects_other && !request_.old) return Status::expectation_failed;
        if (left_ > content_limit) return Status::content_too_large;
        request_.keep_alive = !facts_.close && (!request_.old || facts_.keep_alive);
        state_ = facts_.chunked ? State::chunk_line : left_ ? State::content : State::complete;
        waiting_ = facts_.expects_continue && !request_.old && state_ != State::complete;
        return Status::none;
    }

    // The content --------------------------------------------------------------------------------

    // Digits, in base 16, and perhaps extensions, which mean nothing here: 1f;name=value
    Status judge_chunk_line(std::string_view line) {
        size_t digits = 0, size = 0;
        for (; digits < line.size(); ++digits) {
            char c = line[digits], letter = char(c | 0x20);
            if (c >= '0' && c <= '9') size = size * 16 + size_t(c - '0');
            else if (letter >= 'a' && letter <= 'f') size = size * 16 + size_t(letter - 'a' + 10);
            else break;
            // Beyond the limit it is not looked at how far.
            if (size > content_limit) return Status::content_too_large;
        }
        std::string_view extensions = detail::after(line, digits);
        extensions_size_ += extensions.size();
        if (digits == 0 || extensions_size_ > extension_limit) return Status::bad_request;
        if (!extensions.empty()) {
            while (!extensions.empty() && detail::is_blank(extensions.front()))
                extensions.remove_prefix(1);
            if (extensions.empty() || extensions.front() != ';') return Status::bad_request;
        }
        content_size_ += size;
        if (content_size_ > content_limit) return Status::content_too_large;
        left_ = size;
        state_ = size ? State::chunk : State::trailers;
        return Status::none;
    }

    Router router_;
    State state_ = State::request_line;
    bool waiting_ = false;
    Status refusal_ = Status::none;
    Request request_;
    Facts facts_;
    uint16_t fields_ = 0;            // lines of the head, trailers included
    uint16_t empty_lines_ = 0;       // in front of the request
    uint64_t left_ = 0;              // of the content, or of a chunk
    size_t content_size_ = 0;        // of all chunks
    size_t fields_size_ = 0;
    size_t extensions_size_ = 0;
    uint64_t count_ = 0;
};

}  // namespace http

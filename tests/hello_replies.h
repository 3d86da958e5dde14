// Replies: what the hello server says, read strictly: every byte of a reply has its place.
#pragma once

#include <stdlib.h>
#include <string>
#include <string_view>
#include <vector>

namespace test {

struct Reply {
    int status = 0;
    std::string date;
    bool close = false, keep_alive = false;
    size_t size = 0;  // of all of it
};

// The first reply in these bytes; none: they hold no whole one, or what no reply looks like, and
// then `wrong` says so.
inline bool read_reply(std::string_view bytes, bool to_head, Reply& reply, bool& wrong) {
    reply = {};
    size_t end = bytes.find("\r\n\r\n");
    if (end == bytes.npos) return false;
    std::string_view head = bytes.substr(0, end + 2);
    auto take = [&](std::string_view text) {
        if (head.substr(0, text.size()) != text) return false;
        head.remove_prefix(text.size());
        return true;
    };
    auto line = [&] {
        size_t size = head.find("\r\n");
        std::string text{head.substr(0, size)};
        head.remove_prefix(size + 2);
        return text;
    };
    wrong = true;
    if (!take("HTTP/1.1 ")) return false;
    std::string status = line();
    reply.status = atoi(status.c_str());
    reply.size = end + 4;
    if (reply.status == 100) return wrong = status != "100 Continue" || !head.empty(), !wrong;
    if (!take("Date: ")) return false;
    reply.date = line();
    if (reply.date.size() != 29 || reply.date.substr(25) != " GMT") return false;
    if (take("Allow: GET, HEAD, OPTIONS\r\n") != (reply.status == 204 || reply.status == 405))
        return false;
    reply.close = take("Connection: close\r\n");
    reply.keep_alive = take("Connection: keep-alive\r\n");
    std::string body;
    if (reply.status != 204) {
        body = reply.status == 200 ? "hello, world\n" : status + "\n";
        if (!take("Content-Type: text/plain\r\nContent-Length: ") ||
            line() != std::to_string(body.size()))
            return false;
    }
    if (!head.empty()) return false;
    wrong = false;
    if (to_head) return true;
    std::string_view rest = bytes.substr(end + 4);
    wrong = rest.substr(0, body.size()) != std::string_view{body}.substr(0, rest.size());
    reply.size += body.size();
    return !wrong && rest.size() >= body.size();
}

}  // namespace test

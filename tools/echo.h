// Echo: what a connection to the echo server is answered: bytes as they come, or line by line.
//
// Each connection has a thread that waits, and answers, and waits. While it waits it costs one page
// of stack and no buffer: what receivepartial() returns is a view into the stream's own, and that
// goes back to a pool before the thread parks; a buffer on the stack would stay. send() takes the
// bytes, and at the end of the turn one system call writes them: an echo costs one recv and one
// send, and many connections share one look at the poller.
#pragma once

#include <copse/copse.h>

namespace echo {

inline uint64_t answers = 0, answered_bytes = 0;

inline bool reply(copse::Stream& peer, std::string_view bytes) {
    ++answers;
    answered_bytes += bytes.size();
    return bool(peer.send(bytes));
}

inline void serve_bytes(copse::Stream& peer) {
    constexpr int at_most = 65536;
    for (;;) {
        // An error that comes with bytes only says that these are fewer than at_most.
        auto [bytes, error] = peer.receivepartial(at_most);
        if (bytes.empty() || !reply(peer, bytes)) return;
    }
}

inline void serve_lines(copse::Stream& peer) {
    for (;;) {
        auto [line, error] = peer.receive("*l");
        if (!reply(peer, line) || error) return;  // the last line may have no end
        peer.send("\n");
    }
}

}  // namespace echo

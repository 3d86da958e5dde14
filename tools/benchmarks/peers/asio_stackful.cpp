// Boost.Asio with stackful coroutines: an echo server, a coroutine a connection.
#include "asio_listen.h"

#include <array>
#include <boost/asio/spawn.hpp>
#include <boost/context/fixedsize_stack.hpp>

namespace asio = boost::asio;
using asio::ip::tcp;

constexpr size_t stack_size = 16384;

void echo(tcp::socket& peer, asio::yield_context yield) {
    try {
        std::array<char, 4096> bytes;
        for (;;) {
            size_t got = peer.async_read_some(asio::buffer(bytes), yield);
            asio::async_write(peer, asio::buffer(bytes, got), yield);
        }
    } catch (const boost::system::system_error&) {
        // The peer has closed.
    }
}

template <class F> void start(asio::io_context& context, F body) {
    asio::spawn(context, std::allocator_arg, boost::context::fixedsize_stack{stack_size},
                std::move(body), asio::detached);
}

int main() {
    asio::io_context context{1};
    tcp::acceptor acceptor = listen_anywhere(context);
    start(context, [&](asio::yield_context yield) {
        for (;;) {
            tcp::socket accepted = acceptor.async_accept(yield);
            start(context, [peer = std::move(accepted)](asio::yield_context yield) mutable {
                echo(peer, yield);
            });
        }
    });
    context.run();
}

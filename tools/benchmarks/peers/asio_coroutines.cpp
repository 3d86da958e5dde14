// Boost.Asio with the language's coroutines: an echo server, a coroutine a connection.
#include "asio_listen.h"

#include <array>

namespace asio = boost::asio;
using asio::use_awaitable;
using asio::ip::tcp;

asio::awaitable<void> echo(tcp::socket peer) {
    try {
        std::array<char, 4096> bytes;
        for (;;) {
            size_t got = co_await peer.async_read_some(asio::buffer(bytes), use_awaitable);
            co_await asio::async_write(peer, asio::buffer(bytes, got), use_awaitable);
        }
    } catch (const boost::system::system_error&) {
        // The peer has closed.
    }
}

asio::awaitable<void> serve(tcp::acceptor& acceptor) {
    for (;;) {
        tcp::socket peer = co_await acceptor.async_accept(use_awaitable);
        asio::co_spawn(acceptor.get_executor(), echo(std::move(peer)), asio::detached);
    }
}

int main() {
    asio::io_context context{1};
    tcp::acceptor acceptor = listen_anywhere(context);
    asio::co_spawn(context, serve(acceptor), asio::detached);
    context.run();
}
